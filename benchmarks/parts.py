"""Where one MD step's time goes: `python benchmarks/parts.py [--threads 1]`, Markdown out.

Operators are timed by PyTorch's profiler in whole steps (energy, forces, σ; 192 and 1,536 water
atoms, 128 channels). The kernels are split into what they do for atoms and along edges by running
them on the same atoms pulled so far apart that none has a neighbor. Operations are counted as in
floor.py, and set against the rate of the machine's matrix product.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from floor import EDGE_BACKWARD, EDGE_FORWARD, matrix_product_rate
from structures import water_box
from torch.profiler import profile

from eip.neighbors import VerletList, build_graph
from eip.potential import Potential, prepared
from eip.uncertainty.evidential import EvidentialPotential

F, LAYERS = 128, 3
#: Multiply-adds by atom and F² that the kernels do: the first message's context is done by element.
ATOMS = {"forward": 2 * 15 + 11, "backward": 2 * 15 + 11}
ALONG = {"forward": EDGE_FORWARD, "backward": EDGE_BACKWARD}


def median(function: Callable[[], object], seconds: float = 1.5) -> float:
    for _ in range(3):
        function()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 5:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def operators(potential: Potential, graph: object, steps: int = 20) -> dict[str, float]:
    """Milliseconds a step in the kernels and in everything else."""
    for _ in range(3):
        potential(graph)
    with profile() as measured:
        for _ in range(steps):
            potential(graph)
    names = {
        "eip::painn": "forward",
        "eip::painn_backward": "backward",
        "eip::edge_vectors": "edge vectors",
        "eip::edge_vectors_backward": "edge vectors",
    }
    out: dict[str, float] = {}
    for event in measured.key_averages():
        name = names.get(event.key, "PyTorch")
        out[name] = out.get(name, 0.0) + event.self_cpu_time_total / 1000 / steps
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = EvidentialPotential(
        elements=[1, 8], element_energies={1: -13.6, 8: -432.0}, force_scale=1.0, channels=F
    )
    potential = prepared(network)
    rate = matrix_product_rate()["best"]
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s on {threads} thread(s)\n")
    print("| atoms | part | ms | counted, GFLOP | GFLOP/s | of the matrix product's rate |")
    print("|---|---|---|---|---|---|")
    for side in (4, 8):
        atoms = water_box(side)
        graph = build_graph(atoms, 5.0)
        apart = atoms.copy()
        apart.set_cell(atoms.cell * 100, scale_atoms=True)
        lonely = build_graph(apart, 5.0)
        whole, alone = operators(potential, graph), operators(potential, lonely)
        rows: list[tuple[str, float, float | None]] = []
        for way in ("forward", "backward"):
            dense = 2 * ATOMS[way] * F**2 * len(atoms)
            rows.append((f"{way}, atoms", alone[way], dense))
            along = ALONG[way] * LAYERS * F * graph.n_edges
            rows.append((f"{way}, edges", whole[way] - alone[way], along))
        rows.append(("edge vectors and back", whole["edge vectors"], None))
        rows.append(("readout, head, σ and the rest of PyTorch", whole["PyTorch"], None))
        verlet = VerletList(5.0)
        verlet(atoms)
        listing = median(partial(verlet, atoms), 0.3)
        rows.append(("Verlet list, not rebuilt", 1000 * listing, None))
        step = median(partial(potential, graph))
        rows.append(("a whole step, unprofiled", 1000 * step, None))
        for name, ms, count in rows:
            speed = "" if count is None else f"{count / ms / 1e6:.0f}"
            share = "" if count is None else f"{count / ms * 1000 / rate:.0%}"
            counted = "" if count is None else f"{count / 1e9:.3f}"
            print(f"| {len(atoms)} | {name} | {ms:.2f} | {counted} | {speed} | {share} |")


if __name__ == "__main__":
    main()
