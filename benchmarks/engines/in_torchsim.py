"""64 molecules at once in torch-sim against one by one: `python benchmarks/engines/in_torchsim.py`

Needs torch-sim (`pip install torch-sim-atomistic`). Velocity Verlet with `EIPModel` and, for
uncertainty-driven dynamics, `BiasedEIPModel`; neighbor lists, integrator and states are in both.
Small organic molecules of many sizes, untrained weights of the default size. Rounds take all
variants in turn, so that what else the machine does hits all; figures are medians of rounds, ratios
medians of those within a round. Beside elapsed time stands that of the processor, which says more
where the machine was not quiet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
import torch_sim as ts
from ase import Atoms

import eip
from eip.engines.torchsim import BiasedEIPModel, EIPModel
from eip.potential import Potential
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import LatentDistancePotential

sys.path.insert(0, str(Path(__file__).parent.parent))
import report
from structures import small_molecules

#: As `eip md --udd` would propose; speed does not depend on them.
BIAS = {"A": 2.0, "B": 0.5, "C": 0.5, "D": 1.0}


def untrained() -> Potential:
    torch.manual_seed(0)
    elements = (1, 6, 7, 8)
    inside = EvidentialPotential(
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=1e-3,  # molecules stay whole
        head="tensor",
        backbone="cartesian_ace",
    )
    return LatentDistancePotential(inside, 128).eval().requires_grad_(False)


class Moving:
    """Structures that move together, a step a call."""

    def __init__(self, model: EIPModel, structures: list[Atoms]) -> None:
        state = ts.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
        dt = torch.tensor(0.5e-3 * ts.units.MetalUnits.time, dtype=torch.float64)
        start, self._step = ts.nve(model, dt=dt, kT=0.025)
        self._state = start(state, seed=0)

    def step(self) -> None:
        self._state = self._step(self._state)


def seconds(all_of_them: list[Moving], steps: int) -> tuple[float, float]:
    """Elapsed, and of the processor, of so many steps of each."""
    elapsed, processor = time.perf_counter(), time.process_time()
    for moving in all_of_them:
        for _ in range(steps):
            moving.step()
    return time.perf_counter() - elapsed, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20, help="of the batch")
    parser.add_argument("--alone", type=int, default=4, help="steps of each molecule by itself")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    circumstances = report.circumstances()
    potential, molecules = untrained(), small_molecules(given.molecules)
    found: dict[str, dict[str, object]] = {}
    for threads in given.threads:
        torch.set_num_threads(threads)
        for kind in ("md", "udd"):
            model = (
                EIPModel(potential, compute_stress=False)
                if kind == "md"
                else BiasedEIPModel(
                    eip.UDDPotential(potential, eip.UDDParameters(**BIAS)), compute_stress=False
                )
            )
            # A model keeps the neighbor lists of the systems of its last call: each has its own.
            together = [Moving(model, molecules)]
            apart = [Moving(_copy(model), [molecule]) for molecule in molecules]
            for moving in (*together, *apart):
                moving.step()
            rounds: dict[str, list[float]] = {}
            for _ in range(given.rounds):
                for name, measured, steps in (
                    ("batched", seconds(together, given.steps), given.steps),
                    ("alone", seconds(apart, given.alone), given.alone),
                ):
                    for clock, value in zip(("elapsed", "processor"), measured, strict=True):
                        per_step = 1000 * value / steps / given.molecules
                        rounds.setdefault(f"{name}_{clock}_ms", []).append(per_step)
            ratios = {
                f"ratio_{clock}": statistics.median(
                    alone / batched
                    for alone, batched in zip(
                        rounds[f"alone_{clock}_ms"], rounds[f"batched_{clock}_ms"], strict=True
                    )
                )
                for clock in ("elapsed", "processor")
            }
            label = f"{kind}, {threads} thread{'s' * (threads > 1)}"
            medians = {name: statistics.median(values) for name, values in rounds.items()}
            found[label] = {name: round(value, 4) for name, value in (medians | ratios).items()}
            print(label, found[label], flush=True)
    content = {
        "circumstances": circumstances,
        "versions": {name: version(name) for name in ("torch-sim-atomistic", "eip")},
        "molecules": given.molecules,
        "atoms": sum(map(len, molecules)),
        "of_a_molecule_and_step": found,
    }
    print(report.write("torchsim", content, given.out))


def _copy(model: EIPModel) -> EIPModel:
    """Another of the same potential, which is not copied."""
    made = type(model)(model.potential, compute_stress=False)
    return made


if __name__ == "__main__":
    main()
