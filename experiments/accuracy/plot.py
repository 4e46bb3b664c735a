"""Error against cost: each network, width and effort a point, beside others' published errors.

    python experiments/accuracy/plot.py --measure    # times our networks, on a quiet machine
    python experiments/accuracy/plot.py              # error_against_cost.png from what was measured

Errors are those of results.json (acetylacetone); a cost is that of energy, forces and σ of liquid
water, 192 atoms, on all cores. Others' costs are `benchmarks/run.py`'s, as ratios to ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from eip.builders.liquids import water
from eip.neighbors import build_graph
from eip.plots.style import COLORS, new_figure
from eip.potential import prepared
from eip.training.trainer import seeded
from eip.uncertainty.evidential import EvidentialPotential

HERE = Path(__file__).parent
COSTS = HERE / "costs.json"

#: Network, channels → settings of results.json and their efforts.
OURS = {
    ("painn", 64): {"60 epochs": "tensor-F64-epochs=60"},
    ("cartesian_ace", 64): {
        "quick": "cartesian_ace-tensor-F64-limit=6.0-epochs=60-selection=force_rmse-"
        "variance_weight=1.0",
        "default": "cartesian_ace-tensor-F64-limit=6.0-epochs=222-selection=force_rmse-"
        "variance_weight=1.0",
        "best": "cartesian_ace-tensor-F64-limit=6.0-epochs=1500-selection=force_rmse-"
        "variance_weight=1.0",
    },
}
#: Force RMSE at 300 and 600 K, meV/Å, as published, and the cost over that of cartesian_ace with
#: 64 channels (docs/performance.md).
OTHERS = {"MACE (L = 2, 256 channels)": (5.1, 22.4, 580.0)}


def measure() -> None:
    """Seconds of a prediction for each network, interleaved; the median of several rounds."""
    graph = build_graph([water(64, melt_ps=0.0)], 5.0)
    networks = {}
    for name, channels in OURS:
        with seeded(0):
            potential = EvidentialPotential(
                elements=[1, 8],
                element_energies={1: 0.0, 8: 0.0},
                force_scale=1.0,
                backbone={"name": name, "channels": channels},
            )
        networks[f"{name} {channels}"] = prepared(potential.eval().requires_grad_(False))
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(12):
        for name, potential in networks.items():
            potential(graph)
            began = time.perf_counter()
            for _ in range(10):
                potential(graph)
            seconds[name].append((time.perf_counter() - began) / 10)
    COSTS.write_text(
        json.dumps(
            {
                "seconds": {name: statistics.median(of) for name, of in seconds.items()},
                "atoms": graph.n_atoms,
                "edges": graph.n_edges,
                "threads": torch.get_num_threads(),
                "load_average": os.getloadavg(),
                "torch": torch.__version__,
            },
            indent=1,
        )
        + "\n"
    )
    print(COSTS.read_text())


def draw() -> None:
    results = json.loads((HERE / "results.json").read_text())["acac"]
    costs = json.loads(COSTS.read_text())["seconds"]
    figure = new_figure(1, 2, size=(8.0, 3.6))
    for axes, suffix, title, place in zip(
        figure.axes, ("", "_ood"), ("300 K", "600 K"), (0, 1), strict=True
    ):
        for color, ((name, channels), efforts) in zip(COLORS, OURS.items(), strict=False):
            cost = 1e3 * costs[f"{name} {channels}"]
            for effort, setting in efforts.items():
                if setting in results:
                    error = 1e3 * results[setting][f"force_rmse{suffix}"]["mean"]
                    axes.scatter(cost, error, color=color, label=f"{name} {channels}")
                    axes.annotate(f" {effort}", (cost, error), va="center", fontsize=7)
        ours = 1e3 * costs["cartesian_ace 64"]
        for name, (*errors, ratio) in OTHERS.items():
            axes.scatter(ratio * ours, errors[place], color=COLORS[2], marker="s", label=name)
        axes.set(xscale="log", yscale="log", xlabel="ms, water of 192 atoms", title=title)
        axes.set_ylabel("force RMSE, meV/Å")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    figure.axes[0].legend(list(by_label.values()), list(by_label), fontsize=7)
    figure.savefig(HERE / "error_against_cost.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    if parser.parse_args().measure:
        measure()
    draw()


if __name__ == "__main__":
    main()
