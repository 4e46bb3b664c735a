"""eIP, by its public interface.

Variants, of PaiNN: "tensor" (energy, forces, σ: what a user gets), "none" (without σ), "udd" (σ
and the gradient of the bias), "reference" (as "tensor", in plain PyTorch); with "ace_" before, of
the other backbone at the size that its accuracy is measured with.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from structures import Motion

import eip
from eip.data.dataset import Batch
from eip.kernels import reference_path
from eip.neighbors import VerletList
from eip.potential import Potential
from eip.training.loss import Loss
from eip.training.settings import TrainingSettings
from eip.uncertainty.evidential import EvidentialPotential
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

#: Channels of cartesian_ace, as in experiments/accuracy.
ACE_CHANNELS = 64
#: Of an atom in liquid water within 5 Å.
AVERAGE_NEIGHBORS = 52.0


class EIP(Worker):
    def load(self, elements: list[int], channels: int = CHANNELS) -> dict[str, Any]:
        networks: dict[str, dict[str, Any]] = {
            "": {
                "backbone": "painn",
                "channels": channels,
                "interactions": LAYERS,
                "radial_functions": RADIAL_FUNCTIONS,
                "cutoff": CUTOFF,
            },
            "ace_": {
                "backbone": "cartesian_ace",
                "channels": ACE_CHANNELS,
                "interactions": LAYERS,
                "cutoff": CUTOFF,
                "mean_neighbors": AVERAGE_NEIGHBORS,
                "feature_limit": 6.0,
            },
        }
        self._potentials: dict[str, Potential] = {}
        for prefix, network in networks.items():
            self._make(prefix, elements, network)
        return {
            "implementation": "eIP",
            "version": eip.__version__,
            "settings": networks[""],
            "ace_settings": networks["ace_"],
        }

    def _make(self, prefix: str, elements: list[int], network: dict[str, Any]) -> None:
        known = self._potentials
        with tempfile.TemporaryDirectory() as folder:
            for head in ("tensor", "none"):
                torch.manual_seed(0)
                potential = EvidentialPotential(
                    elements=elements,
                    element_energies={z: 0.0 for z in elements},
                    force_scale=1.0,
                    head=head,
                    **network,
                )
                path = Path(folder) / f"{head}.eip"
                eip.save(potential, path)
                known[prefix + head] = eip.load(path, device=self.device)
        known[prefix + "udd"] = eip.UDDPotential(
            known[prefix + "tensor"], eip.UDDParameters(A=1.0, B=1.0, C=1.0, D=1.0)
        )
        known[prefix + "reference"] = known[prefix + "tensor"]

    def _path(self, variant: str) -> contextlib.AbstractContextManager[None]:
        return reference_path() if "reference" in variant else contextlib.nullcontext()

    def _graphs(self, atoms: Atoms) -> Iterator[eip.AtomGraph]:
        """One list, positions that move: endlessly."""
        graph = eip.build_graph(atoms, CUTOFF, device=self.device)
        motion = Motion(atoms)
        places = [
            torch.tensor(motion.next(), dtype=torch.float64, device=self.device) for _ in range(8)
        ]
        return (graph.with_positions(positions) for positions in itertools.cycle(places))

    def md_step(self, atoms: Atoms, variant: str, mode: str) -> Step:
        potential, motion = self._potentials[variant], Motion(atoms)
        # Beside what all workers know: "graph" and "rebuild", the list with and without its skin.
        if mode == "model":
            graphs, snapshot = self._graphs(atoms), eip.prepared(potential)

            def model() -> None:
                with self._path(variant):
                    snapshot(next(graphs))

            return model
        if mode == "graph":
            verlet = VerletList(CUTOFF, 0.5, device=self.device)
            moving = atoms.copy()

            def graph() -> None:
                moving.positions = motion.next()
                verlet(moving)

            return graph
        if mode == "rebuild":
            return lambda: eip.build_graph(atoms, CUTOFF + 0.5, device=self.device)
        atoms = atoms.copy()
        atoms.calc = eip.Calculator(potential)

        def calculator() -> None:
            atoms.positions = motion.next()
            with self._path(variant):
                atoms.get_forces()

        return calculator

    def train_step(self, frames: list[Atoms], labels: Labels, variant: str) -> Step:
        potential = self._potentials[variant].train().requires_grad_(True)
        dtype = potential.dtype
        batch = Batch(
            eip.build_graph(frames, CUTOFF),
            torch.tensor(labels.energy),
            torch.cat([torch.tensor(f, dtype=dtype) for f in labels.forces]),
            None,
            tuple(f"frame {i}" for i in range(len(frames))),
        ).to(self.device)
        s = TrainingSettings()
        loss = Loss.of(s)
        optimizer = torch.optim.AdamW(
            potential.parameters(), lr=LEARNING_RATE, weight_decay=s.weight_decay
        )

        def step() -> None:
            optimizer.zero_grad()
            with self._path(variant):
                prediction = potential(batch.graph, differentiable="everything")
                loss(prediction, batch).total.backward()
            torch.nn.utils.clip_grad_norm_(potential.parameters(), s.gradient_clip)
            optimizer.step()

        return step

    def inference(self, frames: list[Atoms], variant: str, mode: str, atoms_per_batch: int) -> Step:
        potential = self._potentials[variant]
        if mode == "all":

            def everything() -> None:
                with self._path(variant):
                    potential.predict(frames, atoms_per_batch=atoms_per_batch)

            return everything
        graphs = [
            eip.build_graph(batch, CUTOFF, device=self.device)
            for batch in batches(frames, atoms_per_batch)
        ]

        snapshot = eip.prepared(potential)

        def model() -> None:
            with self._path(variant):
                for graph in graphs:
                    snapshot(graph)

        return model

    def report_graph(self, frames: list[Atoms]) -> dict[str, Any]:
        """Atoms and edges, and how often a Verlet list was rebuilt in 100 steps."""
        atoms, motion = frames[0].copy(), Motion(frames[0])
        verlet = VerletList(CUTOFF, 0.5)
        for _ in range(100):
            atoms.positions = motion.next()
            verlet(atoms)
        edges = eip.build_graph(frames[0], CUTOFF).n_edges
        return {"atoms": len(atoms), "edges": edges, "rebuilds_in_100_steps": verlet.rebuilds}

    def report_accuracy(self, frames: list[Atoms]) -> dict[str, Any]:
        """Forces and σ in float32 against plain PyTorch in float64."""
        single = self._potentials["tensor"]
        graph = eip.build_graph(frames[0], CUTOFF, device=self.device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "double.eip"
            eip.save(single, path)
            double = eip.load(path, device=self.device, dtype=torch.float64)
        # The exact function at the very positions that float32 holds.
        with reference_path():
            exact = double(graph)
            plain = single(graph)
        fast = single(graph)
        rms = exact.forces.square().mean().sqrt()
        out: dict[str, Any] = {"atoms": graph.n_atoms, "force_rms": rms.item()}
        for name, prediction in (("fast_float32", fast), ("reference_float32", plain)):
            error = prediction.forces.double() - exact.forces
            sigma = prediction.force_uncertainty.double() / exact.force_uncertainty - 1
            out[name] = {
                "forces_rms_error_over_rms": (error.square().mean().sqrt() / rms).item(),
                "forces_largest_error_over_rms": (error.abs().max() / rms).item(),
                "sigma_largest_relative_error": sigma.abs().max().item(),
                "energy_error_per_atom": (prediction.energy - exact.energy).abs().max().item()
                / graph.n_atoms,
            }
        return out

    def report_first_prediction(self, frames: list[Atoms]) -> dict[str, Any]:
        """Seconds of the first and the second prediction of this process."""
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            self._potentials["tensor"].predict(frames[0])
            seconds.append(time.perf_counter() - start)
        cached = os.environ.get("EIP_CACHE_DIR") is None
        return {"first": seconds[0], "second": seconds[1], "users_cache": cached}


if __name__ == "__main__":
    serve(EIP())
