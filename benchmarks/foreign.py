"""What σ and UDD cost on a network that others trained: `python benchmarks/foreign.py chgnet`

One step of LiFePO4 (56 atoms) on one thread, neighbor list ready: "network" its energy and forces,
"sigma" what `eip attach` makes of it (energy, forces, σ, grade), "added" that without the network,
whose answer is there already, "udd" besides the gradient of the bias, "every third" three steps
of which one has it (`--udd-interval 3`). "theirs" is the package's own
ASE calculator, its list included. The error bar is fitted to forces that are made up: its size does
not matter here. Times are processor seconds, which other work on the machine changes least; rounds
take all variants in turn, and a ratio is the median of those within a round. Needs
`pip install "eip[chgnet,sevenn]"`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from rich.console import Console
from structures import Motion

import eip
from eip.builders import lifepo4
from eip.data.dataset import Batch
from eip.graph import AtomGraph
from eip.models.settings import backbone_settings
from eip.uncertainty.attached import AttachedPotential
from eip.verbs.attach import with_error_bar

HERE = Path(__file__).resolve().parent
Step = Callable[[], object]


def attached(network: str, atoms: Atoms) -> tuple[AttachedPotential, eip.Potential]:
    """The network, and the same with an error bar."""
    elements = sorted(set(atoms.numbers.tolist()))
    potential = AttachedPotential(
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=1.0,
        backbone=backbone_settings(network).pretrained(),
    )
    potential.eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    batches = []
    with potential.remembering():
        for seed in range(4):
            moved = atoms.copy()
            moved.rattle(0.05, seed=seed)
            graph = eip.build_graph(moved, potential.cutoff)
            forces = potential.asked(graph).forces
            made_up = forces + torch.tensor(0.1 * rng.normal(size=forces.shape)).to(forces)
            batches.append(Batch(graph, None, made_up, None, (f"frame {seed}",)))
        made = with_error_bar(potential, batches[:2], batches[2:])
    return potential, made.potential


def their_calculator(network: str) -> Calculator:
    """The package's own, on the CPU."""
    with contextlib.redirect_stdout(io.StringIO()):
        if network == "chgnet":
            from chgnet.model.dynamics import CHGNetCalculator

            return CHGNetCalculator(use_device="cpu")
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator("7net-0", device="cpu")


def graphs(atoms: Atoms, cutoff: float) -> Iterator[AtomGraph]:
    """One list, positions that move: endlessly."""
    graph, motion = eip.build_graph(atoms, cutoff), Motion(atoms)
    places = [torch.tensor(motion.next(), dtype=torch.float64) for _ in range(8)]
    return (graph.with_positions(positions) for positions in itertools.cycle(places))


def variants(network: str, atoms: Atoms) -> dict[str, Step]:
    """A step of each."""
    alone, potential = attached(network, atoms)
    sigma = eip.prepared(potential)
    udd = eip.prepared(eip.UDDPotential(potential, eip.UDDParameters(A=1.0, B=1.0, C=1.0, D=1.0)))
    moving = {name: graphs(atoms, alone.cutoff) for name in ("network", "sigma", "udd", "third")}
    theirs, motion = atoms.copy(), Motion(atoms)
    theirs.calc = their_calculator(network)

    def calculate() -> None:
        theirs.positions = motion.next()
        theirs.get_forces()

    def every_third() -> None:
        udd(next(moving["third"]))
        sigma(next(moving["third"]))
        sigma(next(moving["third"]))

    graph = next(moving["sigma"])
    with alone.remembering([(graph, alone.asked(graph))]):
        answered = eip.prepared(potential)  # a copy, which goes on remembering

    return {
        "network": lambda: alone.asked(next(moving["network"])),
        "added": lambda: answered(graph),
        "sigma": lambda: sigma(next(moving["sigma"])),
        "udd": lambda: udd(next(moving["udd"])),
        "every third": every_third,
        "theirs": calculate,
    }


def timed(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of one step of each, by round; every other round goes backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for step in steps.values():
        step()
    for number in range(rounds):
        for name in names if number % 2 else names[::-1]:
            gc.collect()  # what one leaves behind is not the next one's
            began = time.process_time()
            steps[name]()
            seconds[name].append(time.process_time() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """Median over rounds of one variant's time over another's, with quartiles."""
    by_round = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
    low, middle, high = statistics.quantiles(by_round, n=4)
    return {name: round(v, 4) for name, v in (("median", middle), ("q1", low), ("q3", high))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", choices=("chgnet", "sevenn"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    atoms = lifepo4((1, 1, 2))
    atoms.rattle(0.05, seed=5)
    found: dict[str, Any] = {}
    for network in given.networks:
        seconds = timed(variants(network, atoms), given.rounds)
        found[network] = {
            "version": version(network),
            "ms": {k: round(1000 * statistics.median(v), 2) for k, v in seconds.items()},
            "added_over_network": ratio(seconds, "added", "network"),
            "sigma_over_network": ratio(seconds, "sigma", "network"),
            "udd_over_md": ratio(seconds, "udd", "sigma"),
            "udd_every_third_over_md": {
                k: round(v / 3, 4) for k, v in ratio(seconds, "every third", "sigma").items()
            },
            "network_over_theirs": ratio(seconds, "network", "theirs"),
        }
    content = {
        **report.circumstances(),
        "structure": f"{atoms.get_chemical_formula()}, {len(atoms)} atoms",
        "threads": 1,
        "rounds": given.rounds,
        "networks": found,
    }
    report.write("foreign", content, given.out)
    report.show(
        Console(),
        f"{len(atoms)} atoms of LiFePO4, one thread",
        ["", "energy and forces, ms", "σ costs", "UDD / MD", "at every third step", "eIP / theirs"],
        (
            [
                network,
                f"{of['ms']['network']:.0f}",
                f"{of['added_over_network']['median']:.1%}",
                f"{of['udd_over_md']['median']:.2f} ×",
                f"{of['udd_every_third_over_md']['median']:.2f} ×",
                f"{of['network_over_theirs']['median']:.2f} ×",
            ]
            for network, of in found.items()
        ),
    )


if __name__ == "__main__":
    main()
