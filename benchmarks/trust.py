"""What of a step goes into σ, the guard and the short range.

    python benchmarks/trust.py MODEL --structure FILE

FILE is of the model's kind, 192 atoms say, and at home: where two atoms are closer than in training
the repulsion has work to do. It is taken as it is, and twice in each direction.

The trained model as it is, without its guard, without guard and short range, without latent
distance, with energies and forces alone, and with the bias of UDD; calls of the potential with the
neighbor list ready, in turn, medians. → results/trust.json
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import report
import torch
from ase.io import read

import eip
from eip.neighbors import build_graph
from eip.potential import Potential, WrappedPotential, layers, prepared
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import LatentDistancePotential


def rebuilt(potential: Potential, **inside: object) -> Potential:
    """The same weights with other settings of its network."""
    network = [one for one in layers(potential)][-1]
    settings = {**network.settings(), **inside}
    settings = {key: value for key, value in settings.items() if value is not None}
    made = type(network).from_settings(settings)
    made.load_state_dict(network.state_dict(), strict=False)
    return made.to(network.dtype)


def variants(potential: Potential) -> dict[str, Potential]:
    """By name; wrapped as the model is, as far as a variant has it."""

    def around(network: Potential, guard: bool, distance: bool) -> Potential:
        wrappings = [one for one in layers(potential) if isinstance(one, WrappedPotential)]
        made = network
        for one in reversed(wrappings):
            if isinstance(one, LatentDistancePotential) and not distance:
                continue
            fresh = copy.copy(one)
            fresh._modules = dict(one._modules)
            fresh.potential = made
            if isinstance(one, LatentDistancePotential) and not guard:
                fresh.guard = None
                fresh._buffers = {**one._buffers, "_guard": None}
            made = fresh
        return made

    network = [one for one in layers(potential)][-1]
    plain = rebuilt(potential, short_range=None)
    none = EvidentialPotential.from_settings({**plain.settings(), "head": "none"})
    none.load_state_dict(plain.state_dict(), strict=False)
    return {
        "as it is": potential,
        "without guard": around(network, False, True),
        "without guard and short range": around(plain, False, True),
        "without latent distance": around(plain, False, False),
        "energy and forces alone": none.to(network.dtype),
        "UDD": eip.UDDPotential(potential, eip.UDDParameters(A=0.1, B=0.1, C=0.1, D=0.1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--structure", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    arguments = parser.parse_args()
    began = report.circumstances()
    made = {
        name: prepared(one.eval().requires_grad_(False))
        for name, one in variants(eip.load(arguments.model)).items()
    }
    found: dict[str, dict[str, float]] = {}
    atoms = read(arguments.structure)
    for times in (1, 2):
        graph = build_graph([atoms.repeat(times)], next(iter(made.values())).cutoff)
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(arguments.rounds + 1):
            for name, potential in made.items():
                repeats = 10 if times == 1 else 2
                start = time.perf_counter()
                for _ in range(repeats):
                    potential(graph)
                seconds[name].append((time.perf_counter() - start) / repeats)
        found[str(graph.n_atoms)] = {
            name: 1e3 * statistics.median(of[1:]) for name, of in seconds.items()
        }
        whole = found[str(graph.n_atoms)]["as it is"]
        print(f"{graph.n_atoms} atoms, {torch.get_num_threads()} threads")
        for name, value in found[str(graph.n_atoms)].items():
            print(f"  {name:32s} {value:8.2f} ms  {value / whole:.3f}")
    report.write("trust", {**began, "milliseconds": found}, arguments.out)


if __name__ == "__main__":
    main()
