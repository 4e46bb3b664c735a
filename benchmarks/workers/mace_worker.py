"""MACE at the size of its "small" models, in float32 as its documentation advises for dynamics.

Variant "large": 256 channels and L = 2, the size of its published errors on molecules.
"""

# ruff: noqa: E402 (what must be done before a package is imported)

from __future__ import annotations

from typing import Any

import torch

# The e3nn that MACE pins reads its constants by torch.load, which by now refuses a slice.
torch.serialization.add_safe_globals([slice])

import mace
import numpy as np
from ase import Atoms
from e3nn import o3
from mace import data, modules
from mace.calculators import MACECalculator
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric.dataloader import Collater
from structures import Motion

from workers.serving import CUTOFF, LEARNING_RATE, Labels, Step, Worker, batches, serve

#: Neighbors of an atom in liquid water within 5 Å.
AVERAGE_NEIGHBORS = 52.0
SMALL, LARGE = "128x0e", "256x0e + 256x1o + 256x2e"


class MACE(Worker):
    _large: torch.nn.Module | None = None

    def load(self, elements: list[int]) -> dict[str, Any]:
        torch.set_default_dtype(torch.float32)
        self._elements = elements
        self._table = AtomicNumberTable(elements)
        self._model = self._new_model().eval().requires_grad_(False).to(self.device)
        return {
            "implementation": "MACE small",
            "version": mace.__version__,
            "settings": {
                "model": "ScaleShiftMACE",
                "hidden_irreps": SMALL,
                "num_interactions": 2,
                "max_ell": 3,
                "correlation": 3,
                "num_bessel": 8,
                "num_polynomial_cutoff": 5,
                "r_max": CUTOFF,
                "calculator": "MACECalculator",
                "large": LARGE,
            },
        }

    def _chosen(self, variant: str) -> torch.nn.Module:
        if variant != "large":
            return self._model
        if self._large is None:  # made when it is asked for: it takes its time
            model = self._new_model(LARGE)
            self._large = model.eval().requires_grad_(False).to(self.device)
        return self._large

    def _new_model(self, irreps: str = SMALL) -> torch.nn.Module:
        torch.manual_seed(0)
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        return modules.ScaleShiftMACE(
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=len(self._elements),
            hidden_irreps=o3.Irreps(irreps),
            MLP_irreps=o3.Irreps("16x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.zeros(len(self._elements)),
            avg_num_neighbors=AVERAGE_NEIGHBORS,
            atomic_numbers=self._elements,
            correlation=3,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )

    def _convert(self, frames: list[Atoms]) -> dict[str, torch.Tensor]:
        graphs = [
            data.AtomicData.from_config(
                data.config_from_atoms(frame), z_table=self._table, cutoff=CUTOFF
            )
            for frame in frames
        ]
        return Collater([], [])(graphs).to(self.device).to_dict()

    def md_step(self, atoms: Atoms, variant: str, mode: str) -> Step:
        motion, network = Motion(atoms), self._chosen(variant)
        if mode == "model":
            inputs = self._convert([atoms])
            places = [
                torch.tensor(motion.next(), dtype=torch.float32, device=self.device)
                for _ in range(8)
            ]

            def model() -> None:
                places.append(places.pop(0))
                network({**inputs, "positions": places[0].clone()})

            return model
        atoms = atoms.copy()
        atoms.calc = MACECalculator(models=[network], device=self.device, default_dtype="float32")

        def calculator() -> None:
            atoms.positions = motion.next()
            atoms.get_forces()

        return calculator

    def train_step(self, frames: list[Atoms], labels: Labels, variant: str) -> Step:
        model = self._new_model().train().to(self.device)
        inputs = self._convert(frames)
        energy = torch.tensor(labels.energy, dtype=torch.float32, device=self.device)
        forces = torch.cat([torch.tensor(f, dtype=torch.float32) for f in labels.forces])
        forces = forces.to(self.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, amsgrad=True)

        def step() -> None:
            optimizer.zero_grad()
            positions = inputs["positions"].detach().clone()
            out = model({**inputs, "positions": positions}, training=True)
            loss = torch.nn.functional.mse_loss(out["energy"], energy)
            loss = loss + 100.0 * torch.nn.functional.mse_loss(out["forces"], forces)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()

        return step

    def inference(self, frames: list[Atoms], variant: str, mode: str, atoms_per_batch: int) -> Step:
        parts = batches(frames, atoms_per_batch)
        if mode == "all":

            def everything() -> None:
                for part in parts:
                    self._model(self._convert(part))

            return everything
        ready = [self._convert(part) for part in parts]

        def model() -> None:
            for inputs in ready:
                self._model({**inputs, "positions": inputs["positions"].detach().clone()})

        return model


if __name__ == "__main__":
    serve(MACE())
