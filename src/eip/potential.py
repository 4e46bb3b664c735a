"""What a potential is: structures in, one `eip.prediction.Prediction` out."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from eip.composition import OpenEnergies
from eip.errors import GPUMemoryFull, InputError
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


def _cells(structures: Sequence[Atoms]) -> Tensor:
    """Lattice vectors that a stress is divided by the volume of; zero where there is none."""
    has_stress = [atoms.pbc.any() and atoms.cell.rank == 3 for atoms in structures]
    cells = np.stack([atoms.cell.array for atoms in structures])
    return torch.from_numpy(np.where(np.array(has_stress)[:, None, None], cells, 0.0))


class OpenEnergyWarning(UserWarning):
    """An energy that holds what the training frames left open."""


class EnergyDifference(NamedTuple):
    """E(b) − E(a), eV, and its standard deviation, eV: two numbers, or arrays for a list."""

    value: float | np.ndarray
    uncertainty: float | np.ndarray


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

    def __call__(self, graph: AtomGraph, **settings: Any) -> Any:
        """`forward`: a `Prediction`, of which callers know what they asked for.

        Raises:
            GPUMemoryFull: if the GPU's memory does not hold what the batch needs.
        """
        try:
            return super().__call__(graph, **settings)
        except torch.OutOfMemoryError as error:
            raise GPUMemoryFull(graph.n_atoms, graph.n_edges) from error

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
        the order given. The stress of a structure that is periodic in no direction, or whose cell
        has no volume, is NaN. The result is detached and on the CPU.

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
            if stress:
                graph = graph.in_cell(_cells(structures[start:stop]).to(self.device))
            part = potential(graph, forces=forces, stress=stress).detach()
            check_finite(part, graph, partial(_name, structures, start))
            parts.append(part.to("cpu"))
        return concatenate(parts)

    @property
    def undetermined(self) -> tuple[OpenEnergies, ...]:
        """Elements whose energies the training frames left open, as far as it is known."""
        return ()

    def energy_difference(
        self, a: Atoms | Sequence[Atoms], b: Atoms | Sequence[Atoms] | None = None
    ) -> EnergyDifference:
        """E(b) − E(a) with its own error, which is far smaller than those of the two.

        What is amiss in both alike drops out: of one composition, above all the energies of the
        elements.

        Args:
            a: a structure, or a list: then the differences of the others to its first.
            b: a structure, whose difference is two numbers, or a list, whose are two arrays.

        Raises:
            InputError: if there is nothing to compare, or the energies of the potential have no
                error bar.

        Warns:
            OpenEnergyWarning: if the compositions differ in what the training frames left open.
        """
        for given in (a,) if b is None else (a, b):
            several = isinstance(given, Sequence) and all(isinstance(x, Atoms) for x in given)
            if not (isinstance(given, Atoms) or several):
                raise InputError(
                    "energy_difference takes structures (ase.Atoms) or lists of them, got "
                    f"{type(given).__name__}"
                )
        if b is None:
            if isinstance(a, Atoms) or len(a) < 2:
                raise InputError(
                    "a difference of energies needs two structures or more, got one; give a list "
                    "of them, or energy_difference(a, b)"
                )
            a, b = a[0], a[1:]
        elif not isinstance(a, Atoms):
            raise InputError(
                "energy_difference(a, b) compares b, one structure or a list, with one structure "
                f"a, got a list of {len(a)} for a"
            )
        others = [b] if isinstance(b, Atoms) else list(b)
        if not others:
            raise InputError("a difference of energies needs two structures or more, got one")
        for index, other in enumerate(others):
            for group in self.undetermined:
                if group.differ(a.numbers, other.numbers):
                    text = f"{_name(others, 0, index)}: {group.text()}"
                    warnings.warn(text, OpenEnergyWarning, stacklevel=2)
        said = self.predict([a, *others], forces=False)
        parts = said.energy_deviations
        if parts is None:
            raise InputError(
                "this potential gives energies without an error bar that differences could have: "
                "it was made before there were any, of one network without an uncertainty, or "
                "fitted on too few validation frames with energies"
            )
        apart = parts[1:] - parts[0]
        if said.energy_widening is not None:
            # The larger of the two factors for both, or what is to cancel would not.
            apart = apart * torch.maximum(said.energy_widening[1:], said.energy_widening[0])
        error = torch.linalg.vector_norm(apart, dim=1)
        value = (said.energy[1:] - said.energy[0]).numpy()
        if isinstance(b, Atoms):
            return EnergyDifference(float(value[0]), float(error[0]))
        return EnergyDifference(value, error.numpy())

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

    @property
    def undetermined(self) -> tuple[OpenEnergies, ...]:
        return self._like.undetermined


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

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        prediction: Prediction = self.potential(
            graph, forces=forces, stress=stress, differentiable=differentiable
        )
        with torch.set_grad_enabled(differentiable != "nothing"):
            return self.completed(prediction, graph)

    def completed(self, prediction: Prediction, graph: AtomGraph) -> Prediction:
        """What this one says beside, or in place of, what the other has said."""
        return prediction

    @property
    def _like(self) -> Potential:
        return self.potential


def layers(potential: Potential) -> Iterator[Potential]:
    """A potential and what it is round, the outermost first."""
    yield potential
    while isinstance(potential, WrappedPotential):
        potential = potential.potential
        yield potential
