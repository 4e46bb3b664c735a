"""What a potential is: structures in, one `eip.prediction.Prediction` out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from ase import Atoms
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels.packing import Packable
from eip.neighbors import build_graph
from eip.prediction import Prediction, check_finite, concatenate

#: What the caller will differentiate afterwards. "nothing": the prediction is detached.
#: "uncertainty": energy and the uncertainties stay attached to the graph's positions, so that a
#: bias built of σ has a gradient (UDD); forces need not. "everything": forces too (training).
Differentiable = Literal["nothing", "uncertainty", "everything"]


def _batches(n_atoms: Sequence[int], atoms_per_batch: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of structures that follow each other, of about so many atoms together."""
    start = total = 0
    for index, count in enumerate(n_atoms):
        if index > start and total + count > atoms_per_batch:
            yield start, index
            start, total = index, 0
        total += count
    yield start, len(n_atoms)


def _name(structures: Sequence[Atoms], start: int, index: int) -> str:
    return f"structure {start + index} ({structures[start + index].get_chemical_formula()})"


class Potential(nn.Module, ABC):
    """Structures in, one `Prediction` out.

    Calibration, bias and ensembles wrap a potential and are potentials themselves; dynamics,
    evaluation and the ASE calculator know nothing but this class.
    """

    @property
    @abstractmethod
    def cutoff(self) -> float:
        """Å; the graph must hold every pair closer than this."""

    @property
    @abstractmethod
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the potential was made for, ascending."""

    @abstractmethod
    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        """Predicts a batch.

        With ``differentiable`` other than "nothing", the caller makes ``graph.positions`` require
        gradients and differentiates energy or uncertainties with respect to them.

        Edges longer than the cutoff must change nothing: a Verlet list brings some.
        """

    def predict(
        self,
        structures: Atoms | Sequence[Atoms],
        *,
        forces: bool = True,
        stress: bool = False,
        atoms_per_batch: int | None = None,
    ) -> Prediction:
        """Predicts ASE structures, in batches of about ``atoms_per_batch`` atoms.

        By default 1,024 on a CPU, whose cache then holds what a batch leaves behind, and 16,384 on
        a GPU, which wants more work at once.

        A potential that is asked again and again for a structure at a time is quicker as a
        `Calculator`, or as `prepared` makes it.

        Atoms of all structures follow each other in ``forces`` and the other per-atom fields, in
        the order given. The result is detached and on the CPU.

        Raises:
            ValueError: if there is no structure, or one is empty or not finite.
            InputError: if an element occurs that the potential was not made for.
            NonFinitePrediction: if something predicted is NaN or infinite (two atoms on one spot,
                say).
        """
        if atoms_per_batch is None:
            atoms_per_batch = 1024 if self.device.type == "cpu" else 16384
        structures = [structures] if isinstance(structures, Atoms) else list(structures)
        if not structures:
            raise ValueError("predict needs at least one structure, got none")
        batches = list(_batches([len(atoms) for atoms in structures], atoms_per_batch))
        potential = self if self.training or len(batches) == 1 else prepared(self)
        parts = []
        for start, stop in batches:
            graph = build_graph(structures[start:stop], self.cutoff, device=self.device)
            part = potential(graph, forces=forces, stress=stress).detach()
            check_finite(part, graph, partial(_name, structures, start))
            parts.append(part.to("cpu"))
        return concatenate(parts)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that the network computes in; geometry is float64 always."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class LikeAnother(Potential):
    """A potential for the elements, of the cutoff, the dtype and on the device of another."""

    @property
    @abstractmethod
    def _like(self) -> Potential:
        """The other."""

    @property
    def cutoff(self) -> float:
        return self._like.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self._like.elements

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        return self._like.device


class PreparedPotential(LikeAnother):
    """A snapshot of a potential that predicts only: what its kernels read is worked out once.

    The copy inside cannot be reached: no weight of it is trained, loaded or written to, and what
    happens to the original afterwards changes nothing here. So the snapshot has no parameters and
    no state of its own, and is not what is saved.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        # In a tuple, where PyTorch does not look for modules.
        self._inside = (copy.deepcopy(potential).requires_grad_(False).eval(),)
        self._pack()

    def _pack(self) -> None:
        for module in self._inside[0].modules():
            if isinstance(module, Packable):
                module.keep_packed()

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        return self._inside[0](graph, forces=forces, stress=stress, differentiable=differentiable)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedPotential:
        self._inside[0]._apply(fn, recurse)
        self._pack()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack()

    @property
    def _like(self) -> Potential:
        return self._inside[0]


def prepared(potential: Potential) -> Potential:
    """A potential for many predictions: a snapshot of one whose kernels work on its weights.

    Without it each prediction packs the weights first, some milliseconds, because it cannot be
    seen whether they have changed. Calculators, dynamics and evaluation prepare by themselves. A
    potential that has nothing to prepare is given back as it is.
    """
    packable = any(isinstance(module, Packable) for module in potential.modules())
    return PreparedPotential(potential) if packable else potential


class WrappedPotential(LikeAnother):
    """A potential round another, which it is like in all but what it says."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    @property
    def _like(self) -> Potential:
        return self.potential
