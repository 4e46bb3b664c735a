"""NequIP with the defaults of its model builder, in float32."""

from __future__ import annotations

from typing import Any

import nequip
import torch
from ase import Atoms
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state
from structures import Motion

from workers.serving import CUTOFF, LEARNING_RATE, Labels, Step, Worker, batches, serve

Inputs = dict[str, torch.Tensor]


class NequIP(Worker):
    def load(self, elements: list[int]) -> dict[str, Any]:
        set_global_state()
        self._types = [chemical_symbols[z] for z in elements]
        self._transforms = [
            ChemicalSpeciesToAtomTypeMapper(model_type_names=self._types),
            NeighborListTransform(CUTOFF),
        ]
        self._model = self._new_model().eval().requires_grad_(False).to(self.device)
        return {
            "implementation": "NequIP",
            "version": nequip.__version__,
            "settings": {
                "num_layers": 4,
                "l_max": 1,
                "parity": True,
                "num_features": 32,
                "num_bessels": 8,
                "r_max": CUTOFF,
                "model_dtype": "float32",
                "calculator": "NequIPCalculator, eager",
            },
        }

    def _new_model(self) -> torch.nn.Module:
        return NequIPGNNModel(
            seed=0,
            model_dtype="float32",
            r_max=CUTOFF,
            type_names=self._types,
            avg_num_neighbors=52.0,
        )

    def _convert(self, frames: list[Atoms]) -> Inputs:
        out = []
        for frame in frames:
            inputs = from_ase(frame)
            for transform in self._transforms:
                inputs = transform(inputs)
            out.append(inputs)
        joined = AtomicDataDict.batched_from_list(out) if len(out) > 1 else out[0]
        return AtomicDataDict.to_(joined, torch.device(self.device))

    def md_step(self, atoms: Atoms, variant: str, mode: str) -> Step:
        motion = Motion(atoms)
        if mode == "model":
            inputs = self._convert([atoms])
            key = AtomicDataDict.POSITIONS_KEY
            places = [torch.tensor(motion.next()).to(inputs[key]) for _ in range(8)]

            def model() -> None:
                places.append(places.pop(0))
                self._model({**inputs, key: places[0].clone()})

            return model
        atoms = atoms.copy()
        atoms.calc = NequIPCalculator(self._model, self.device, transforms=self._transforms)

        def calculator() -> None:
            atoms.positions = motion.next()
            atoms.get_forces()

        return calculator

    def train_step(self, frames: list[Atoms], labels: Labels, variant: str) -> Step:
        model = self._new_model().train().to(self.device)
        inputs = self._convert(frames)
        energy = torch.tensor(labels.energy, device=self.device)
        forces = torch.cat([torch.tensor(f) for f in labels.forces]).to(self.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        key = AtomicDataDict.POSITIONS_KEY

        def step() -> None:
            optimizer.zero_grad()
            out = model({**inputs, key: inputs[key].detach().clone()})
            loss = torch.nn.functional.mse_loss(out[AtomicDataDict.TOTAL_ENERGY_KEY][:, 0], energy)
            loss = loss + torch.nn.functional.mse_loss(out[AtomicDataDict.FORCE_KEY], forces)
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
                self._model(dict(inputs))

        return model


if __name__ == "__main__":
    serve(NequIP())
