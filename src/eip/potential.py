"""What a potential is, and what it says of a structure."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor, nn

from eip.errors import NonFinitePrediction
from eip.graph import AtomGraph
from eip.kernels.packing import Packable
from eip.neighbors import build_graph

#: What the caller will differentiate afterwards. "nothing": the prediction is detached.
#: "uncertainty": energy and the uncertainties stay attached to the graph's positions, so that a
#: bias built of σ has a gradient (UDD); forces need not. "everything": forces too (training).
Differentiable = Literal["nothing", "uncertainty", "everything"]


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch of structures. Energies eV, lengths Å.

    "uncertainty" is always a standard deviation in the unit of the thing itself; a variance or a
    covariance says so in its name. A field is None where it was not asked for or where the
    potential has no such thing (a global head has no uncertainty by atom, say).

    Attributes:
        energy: total energy, eV, float64 whatever the dtype of the network.
        forces: eV/Å.
        stress: (1/V) ∂E/∂ε, eV/Å³, ASE's sign.
        force_uncertainty: σ_i of each atom's force, eV/Å (theory, eq. 6); epistemic.
        force_covariance: U_i, (eV/Å)², epistemic; rotates with the structure.
        force_aleatoric: standard deviation of the noise in the labels, eV/Å.
        energy_uncertainty: eV, only of methods that put evidence on the energy.
        uncertainty: σ of a structure, the mean of its atoms' σ_i, eV/Å (theory, eq. 7).
        features: what the network knows of each atom's surroundings and rotation leaves alone, for
            distances in latent space.
        energy_bias, forces_bias: what a bias added; ``energy`` and ``forces`` never hold it.
        evidence: the distribution's own parameters, for the loss; its type belongs to the method.
    """

    energy: Float[Tensor, "frames"]
    forces: Float[Tensor, "atoms 3"] | None = None
    stress: Float[Tensor, "frames 3 3"] | None = None
    force_uncertainty: Float[Tensor, "atoms"] | None = None
    force_covariance: Float[Tensor, "atoms 3 3"] | None = None
    force_aleatoric: Float[Tensor, "atoms"] | None = None
    energy_uncertainty: Float[Tensor, "frames"] | None = None
    uncertainty: Float[Tensor, "frames"] | None = None
    features: Float[Tensor, "atoms channels"] | None = None
    energy_bias: Float[Tensor, "frames"] | None = None
    forces_bias: Float[Tensor, "atoms 3"] | None = None
    evidence: object | None = None

    def rescaled(
        self,
        graph: AtomGraph,
        sigma: Float[Tensor, "atoms"],
        covariance_factor: Float[Tensor, "atoms"],
    ) -> Prediction:
        """With another σ_i, which σ of the structure follows, and U_i times a factor, if any."""
        covariance = self.force_covariance
        if covariance is not None:
            covariance = covariance * covariance_factor[:, None, None]
        return replace(
            self,
            force_uncertainty=sigma,
            force_covariance=covariance,
            uncertainty=graph.mean_by_frame(sigma),
        )

    def detach(self) -> Prediction:
        """The same figures, cut off from automatic differentiation, without the evidence."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str) -> Prediction:
        """The same figures on another device, without the evidence."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Prediction:
        mapped: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            mapped[field.name] = function(value) if isinstance(value, Tensor) else None
        return Prediction(**mapped)


def check_finite(
    prediction: Prediction, graph: AtomGraph, name: Callable[[int], str] = "structure {}".format
) -> None:
    """Nobody is handed a number that is none: it would drop out of means without a word.

    The stress of a structure that is not periodic in all directions is none by definition.

    Args:
        name: of a structure, by its place in the batch.

    Raises:
        NonFinitePrediction: naming the first structure concerned, its atoms and what they suffer
            from.
    """
    bad: dict[str, Tensor] = {}
    for field in fields(prediction):
        value = getattr(prediction, field.name)
        if not isinstance(value, Tensor) or bool(value.isfinite().all()):
            continue
        rows = (~value.isfinite()).reshape(len(value), -1).any(dim=1).cpu()
        if field.name == "stress":
            rows &= graph.pbc.all(dim=1).cpu()
        if rows.any():
            # Where there are as many atoms as structures, the two are the same.
            by_atom = len(value) != graph.n_frames
            bad[field.name] = graph.frame.cpu()[rows] if by_atom else rows.nonzero()[:, 0]
    if not bad:
        return
    frame = min(int(rows[0]) for rows in bad.values())
    what = [field for field, rows in bad.items() if frame in rows]
    raise NonFinitePrediction(
        f"the potential's {', '.join(what)} {'is' if len(what) == 1 else 'are'} not finite for "
        f"{name(frame)}: {_closest(graph, frame)}"
    )


def _closest(graph: AtomGraph, frame: int) -> str:
    """What is the likely reason why nothing can be predicted of a structure."""
    first = int((graph.frame < frame).sum())
    mine = (graph.frame[graph.centers] == frame).nonzero()[:, 0]
    lengths = torch.linalg.vector_norm(graph.edge_vectors().detach()[mine], dim=1)
    damaged = "the model is damaged or the structure is far outside what it knows"
    if not len(lengths):
        return damaged
    edge = mine[lengths.argmin()]
    i, j = (int(ends[edge]) - first for ends in (graph.centers, graph.neighbors))
    if lengths.min() == 0:
        return f"atoms {i} and {j} are on the same spot"
    return f"{damaged} (its closest atoms, {i} and {j}, are {float(lengths.min()):.3g} Å apart)"


def concatenate(predictions: Sequence[Prediction]) -> Prediction:
    """The predictions of several batches as one; a field that one batch lacks is None."""
    joined: dict[str, Any] = {}
    for field in fields(Prediction):
        values = [getattr(p, field.name) for p in predictions]
        joined[field.name] = (
            torch.cat(values) if all(isinstance(v, Tensor) for v in values) else None
        )
    return Prediction(**joined)


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


class PreparedPotential(Potential):
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
    def cutoff(self) -> float:
        return self._inside[0].cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self._inside[0].elements

    @property
    def dtype(self) -> torch.dtype:
        return self._inside[0].dtype

    @property
    def device(self) -> torch.device:
        return self._inside[0].device


def prepared(potential: Potential) -> Potential:
    """A potential for many predictions: a snapshot of one whose kernels work on its weights.

    Without it each prediction packs the weights first, some milliseconds, because it cannot be
    seen whether they have changed. Calculators, dynamics and evaluation prepare by themselves. A
    potential that has nothing to prepare is given back as it is.
    """
    packable = any(isinstance(module, Packable) for module in potential.modules())
    return PreparedPotential(potential) if packable else potential


class WrappedPotential(Potential):
    """A potential round another, which it is like in all but what it says."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self.potential.elements

    @property
    def dtype(self) -> torch.dtype:
        return self.potential.dtype

    @property
    def device(self) -> torch.device:
        return self.potential.device
