"""What a potential says of a batch of structures, each quantity described once.

A quantity is one line of `Prediction`: the annotation holds its shape and a `Quantity`. Results of
calculators, columns of files, the laws of `eip.testing` and the pages of the documentation follow
from `quantities`. A potential of yours says more by a class of its own:

    @dataclass(frozen=True)
    class WithCharges(Prediction):
        charges: Annotated[Float[Tensor, "atoms"] | None, Quantity("e", "partial charge")] = None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Literal, get_args, get_type_hints

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eip.errors import NonFinitePrediction
from eip.graph import AtomGraph


@dataclass(frozen=True, eq=False)
class Quantity:
    """What a field of a prediction is.

    Attributes:
        unit: "" of what has none.
        about: one sentence or less, without the unit.
        ase: names among ASE's properties, which it then goes by in results and files.
        aliases: what other codes call it, and what makes theirs of ours.
        deviation: it is a standard deviation, so never negative.
        extensive: a structure twice as large has twice of it.
        internal: for other potentials, not for people: in no results and no files.
        filed: trajectories and evaluations hold it; else it is for who asks a calculator.
        name, level, shape: found where it is written: its field, whether there is one for each
            atom or one for each structure ("frame"), and the shape of one of them, whose axes of 3
            are Cartesian and turn with the structure.
    """

    unit: str
    about: str
    ase: tuple[str, ...] = ()
    aliases: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    deviation: bool = False
    extensive: bool = False
    internal: bool = False
    filed: bool = True
    name: str = ""
    level: Literal["atom", "frame"] = "frame"
    shape: tuple[int | str, ...] = ()

    @property
    def rank(self) -> int:
        """How many Cartesian axes turn with the structure."""
        return self.shape.count(3)

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called in a calculator's results and in files."""
        return self.ase or (self.name,)


def quantities(kind: type[Prediction]) -> tuple[Quantity, ...]:
    """What the fields of a prediction class are, in their order.

    Raises:
        TypeError: if a quantity's annotation does not say that it is of atoms or of frames.
    """
    return _quantities(kind)  # type: ignore[arg-type]


@cache
def _quantities(kind: type[Prediction]) -> tuple[Quantity, ...]:
    hints, found = get_type_hints(kind, include_extras=True), []
    for one in fields(kind):
        hint, *more = get_args(hints[one.name])
        about = next((part for part in more if isinstance(part, Quantity)), None)
        if about is None:
            continue
        arrays = [part for part in (hint, *get_args(hint)) if hasattr(part, "dim_str")]
        level, *axes = arrays[0].dim_str.split() if arrays else [""]
        if level not in ("atoms", "frames"):
            raise TypeError(
                f'{kind.__name__}.{one.name} should be annotated as Float[Tensor, "atoms …"] or '
                f'Float[Tensor, "frames …"], got {hint}'
            )
        shape = tuple(int(axis) if axis.isdigit() else axis for axis in axes)
        by: Literal["atom", "frame"] = "atom" if level == "atoms" else "frame"
        found.append(replace(about, name=one.name, level=by, shape=shape))
    return tuple(found)


def _by_component(sigma: np.ndarray) -> np.ndarray:
    return np.repeat(sigma[:, None], 3, axis=1)


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch of structures. Energies eV, lengths Å.

    "uncertainty" is always a standard deviation in the unit of the thing itself; a variance or a
    covariance says so in its name. A field is None where it was not asked for or where the
    potential has no such thing (a global head has no uncertainty by atom, say). The energy is
    float64 whatever the dtype of the network. ``evidence`` is a distribution's own parameters, for
    the loss; its type belongs to the method.

    Of atoms closer than in any training frame, for potentials round the one that says so (None:
    there are none): ``repulsion_covariance``, (eV/Å)², what their forces are not known by, and
    ``repulsion_grade``, their extrapolation grade for that reason.
    """

    energy: Annotated[
        Float[Tensor, "frames"],
        Quantity("eV", "total energy", ase=("energy", "free_energy"), extensive=True),
    ]
    forces: Annotated[
        Float[Tensor, "atoms 3"] | None, Quantity("eV/Å", "−∂E/∂R", ase=("forces",))
    ] = None
    stress: Annotated[
        Float[Tensor, "frames 3 3"] | None,
        Quantity(
            "eV/Å³",
            "(1/V) ∂E/∂ε, ASE's sign; of slabs and wires with V of the whole cell",
            ase=("stress",),
        ),
    ] = None
    energies: Annotated[
        Float[Tensor, "atoms"] | None,
        Quantity(
            "eV",
            "what each atom adds to the total energy; only the sum is physical",
            ase=("energies",),
            filed=False,
        ),
    ] = None
    force_uncertainty: Annotated[
        Float[Tensor, "atoms"] | None,
        Quantity(
            "eV/Å",
            "σ_i, standard deviation of an atom's force (theory, eq. 6), epistemic",
            aliases={"forces_uncertainty": _by_component},
            deviation=True,
        ),
    ] = None
    force_aleatoric: Annotated[
        Float[Tensor, "atoms"] | None,
        Quantity("eV/Å", "standard deviation of the noise in the labels", deviation=True),
    ] = None
    force_covariance: Annotated[
        Float[Tensor, "atoms 3 3"] | None,
        Quantity("(eV/Å)²", "U_i, covariance of an atom's force, epistemic"),
    ] = None
    extrapolation_grade: Annotated[
        Float[Tensor, "atoms"] | None,
        Quantity("", "γ_i, above 1 an atom is beyond the range of held-out atoms"),
    ] = None
    uncertainty: Annotated[
        Float[Tensor, "frames"] | None,
        Quantity(
            "eV/Å", "σ of a structure, the mean of its atoms' σ_i (theory, eq. 7)", deviation=True
        ),
    ] = None
    energy_uncertainty: Annotated[
        Float[Tensor, "frames"] | None,
        Quantity("eV", "standard deviation of the energy", deviation=True, extensive=True),
    ] = None
    energy_deviations: Annotated[
        Float[Tensor, "frames directions"] | None,
        Quantity(
            "eV",
            "independent parts of the energy's error, standard deviations with a sign: their "
            "length is the energy's, that of what two structures differ by the difference's",
            extensive=True,
            internal=True,
        ),
    ] = None
    energy_widening: Annotated[
        Float[Tensor, "frames directions"] | None,
        Quantity("", "by what each part is larger than it says; None: by nothing", internal=True),
    ] = None
    features: Annotated[
        Float[Tensor, "atoms channels"] | None,
        Quantity("", "what the network knows of an atom, for latent distances", internal=True),
    ] = None
    energy_bias: Annotated[
        Float[Tensor, "frames"] | None,
        Quantity("eV", "what a bias (UDD) added; the energy never holds it"),
    ] = None
    forces_bias: Annotated[
        Float[Tensor, "atoms 3"] | None,
        Quantity("eV/Å", "what a bias (UDD) added; the forces never hold it"),
    ] = None
    evidence: object | None = None
    repulsion_covariance: Float[Tensor, "atoms 3 3"] | None = None
    repulsion_grade: Float[Tensor, "atoms"] | None = None

    def with_uncertainty(
        self,
        graph: AtomGraph,
        force_uncertainty: Float[Tensor, "atoms"] | None = None,
        force_covariance: Float[Tensor, "atoms 3 3"] | None = None,
        force_aleatoric: Float[Tensor, "atoms"] | None = None,
        energy_uncertainty: Float[Tensor, "frames"] | None = None,
    ) -> Prediction:
        """With these in place of whatever it said of uncertainty; σ of a structure follows.

        σ_i is never below the slope of a repulsion that no training frame shows: its square is
        added, and so to U_i.
        """
        sigma, missing = force_uncertainty, self.repulsion_covariance
        if sigma is not None and missing is not None:
            square = sigma.square() + missing.diagonal(dim1=1, dim2=2).sum(dim=1)
            # A root has no gradient at zero.
            sigma = square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()
            if force_covariance is not None:
                force_covariance = force_covariance + missing
        return replace(
            self,
            force_uncertainty=sigma,
            force_covariance=force_covariance,
            force_aleatoric=force_aleatoric,
            energy_uncertainty=energy_uncertainty,
            uncertainty=None if sigma is None else graph.mean_by_frame(sigma),
        )

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
        return self.with_uncertainty(
            graph, sigma, covariance, self.force_aleatoric, self.energy_uncertainty
        )

    def detach(self) -> Prediction:
        """The same figures, cut off from automatic differentiation, without the evidence."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str) -> Prediction:
        """The same figures on another device, without the evidence."""
        return self._map(lambda value: value.to(device))

    def figures(self) -> list[tuple[Quantity, Tensor]]:
        """The quantities that there are, with what they are."""
        found = ((q, getattr(self, q.name)) for q in quantities(type(self)))
        return [(q, value) for q, value in found if value is not None]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Prediction:
        kept = {q.name: value for q, value in self.figures()}
        for name in ("repulsion_covariance", "repulsion_grade"):
            if (value := getattr(self, name)) is not None:
                kept[name] = value
        return type(self)(**{name: function(value) for name, value in kept.items()})


Prediction.__doc__ = f"{Prediction.__doc__}\n    Attributes:\n" + "".join(
    f"        {of.name}: {of.about}{', ' if of.unit else ''}{of.unit}.\n"
    for of in quantities(Prediction)
)


def concatenate(predictions: Sequence[Prediction]) -> Prediction:
    """The predictions of several batches as one; a field that one batch lacks is None."""
    kind = type(predictions[0])
    columns = {q.name: [getattr(p, q.name) for p in predictions] for q in quantities(kind)}
    return kind(
        **{
            name: torch.cat(values)
            for name, values in columns.items()
            if all(value is not None for value in values)
        }
    )


def separate(prediction: Prediction, n_atoms: Sequence[int]) -> list[Prediction]:
    """The structures of a batch, a prediction each: what `concatenate` joins.

    Args:
        n_atoms: of each structure.
    """
    columns = {
        of.name: value.split(list(n_atoms) if of.level == "atom" else 1)
        for of, value in prediction.figures()
    }
    parts = zip(*columns.values(), strict=True)
    return [type(prediction)(**dict(zip(columns, part, strict=True))) for part in parts]


def check_finite(
    prediction: Prediction, graph: AtomGraph, name: Callable[[int], str] = "structure {}".format
) -> None:
    """Nobody is handed a number that is none: it would drop out of means without a word.

    A structure without a volume has no stress by definition.

    Args:
        name: of a structure, by its place in the batch.

    Raises:
        NonFinitePrediction: naming the first structure concerned, its atoms and what they suffer
            from.
    """
    bad: dict[str, Tensor] = {}
    for of, value in prediction.figures():
        if bool(value.isfinite().all()):
            continue
        rows = (~value.isfinite()).reshape(len(value), -1).any(dim=1).cpu()
        if of.name == "stress":
            rows &= (torch.linalg.det(graph.cell) != 0).cpu()
        if rows.any():
            by_atom = of.level == "atom"
            bad[of.name] = graph.frame.cpu()[rows] if by_atom else rows.nonzero()[:, 0]
    if not bad:
        return
    frame = min(int(rows[0]) for rows in bad.values())
    what = [of for of, rows in bad.items() if frame in rows]
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
