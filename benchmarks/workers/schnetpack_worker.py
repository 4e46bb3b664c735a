"""SchNetPack's PaiNN, at the size of ours."""

# ruff: noqa: E402 (what must be done before a package is imported)

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

# SchNetPack loads its models by torch.load, which has since become picky about what it opens.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import torch
import torch.utils.data.dataloader

# SchNetPack 2.1.1 imports a name from there that this torch no longer has.
torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)

import schnetpack as spk
from ase import Atoms
from schnetpack import properties
from schnetpack.interfaces import AtomsConverter, SpkCalculator
from schnetpack.transform import MatScipyNeighborList, SkinNeighborList
from structures import Motion

from workers.serving import (
    CHANNELS,
    CUTOFF,
    LAYERS,
    LEARNING_RATE,
    RADIAL_FUNCTIONS,
    Labels,
    Step,
    Worker,
    batches,
    serve,
)

Inputs = dict[str, torch.Tensor]


class SchNetPack(Worker):
    def load(self, elements: list[int]) -> dict[str, Any]:
        self._model = self._new_model().eval().requires_grad_(False).to(self.device)
        return {
            "implementation": "SchNetPack PaiNN",
            "version": spk.__version__,
            "settings": {
                "n_atom_basis": CHANNELS,
                "n_interactions": LAYERS,
                "radial_basis": f"GaussianRBF({RADIAL_FUNCTIONS})",
                "cutoff": CUTOFF,
                "neighbor_list": "MatScipyNeighborList",
                "calculator": "SpkCalculator, SkinNeighborList(0.5)",
            },
        }

    def _new_model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return spk.model.NeuralNetworkPotential(
            representation=spk.representation.PaiNN(
                n_atom_basis=CHANNELS,
                n_interactions=LAYERS,
                radial_basis=spk.nn.GaussianRBF(n_rbf=RADIAL_FUNCTIONS, cutoff=CUTOFF),
                cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
            ),
            input_modules=[spk.atomistic.PairwiseDistances()],
            output_modules=[
                spk.atomistic.Atomwise(n_in=CHANNELS, output_key="energy"),
                spk.atomistic.Forces(energy_key="energy", force_key="forces"),
            ],
        )

    def _convert(self, frames: list[Atoms]) -> Inputs:
        converter = AtomsConverter(
            neighbor_list=MatScipyNeighborList(cutoff=CUTOFF), device=self.device
        )
        return converter(frames)

    def md_step(self, atoms: Atoms, variant: str, mode: str) -> Step:
        motion = Motion(atoms)
        if mode == "model":
            inputs = self._convert([atoms])
            places = [
                torch.tensor(motion.next(), dtype=torch.float32, device=self.device)
                for _ in range(8)
            ]

            def model() -> None:
                # The model writes into its inputs.
                places.append(places.pop(0))
                self._model({**inputs, properties.R: places[0].clone()})

            return model
        atoms = atoms.copy()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            torch.save(self._model, path)
            atoms.calc = SpkCalculator(
                str(path),
                SkinNeighborList(MatScipyNeighborList(cutoff=CUTOFF), cutoff_skin=0.5),
                energy_unit="eV",
                device=self.device,
            )

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
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

        def step() -> None:
            optimizer.zero_grad()
            out = model({**inputs, properties.R: inputs[properties.R].detach().clone()})
            loss = 0.01 * torch.nn.functional.mse_loss(out["energy"], energy)
            loss = loss + 0.99 * torch.nn.functional.mse_loss(out["forces"], forces)
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
                self._model({**inputs, properties.R: inputs[properties.R].detach().clone()})

        return model


if __name__ == "__main__":
    serve(SchNetPack())
