"""The energy's error bar, by the last layer and by what the training set's compositions leave open.

The energy is linear in the weights of the readout's last layer: its slope in them is the sum over
atoms of the hidden units, and its slope in the elements' energies the counts of elements. As far as
the training energies fix these numbers, and no farther, an energy is known (last-layer prediction
rigidity: Bigi et al. 2024).

    symbol      meaning
    h_i, h̄_Z    hidden units of atom i, and their mean over the training atoms of its element
    n           counts of elements; n_C, n_0: its parts in the span of the training compositions,
                and beside it
    φ           (Σ_i (h_i − h̄_Z(i)), n_C): by differences, because the sums themselves are large
    Φ           φ of the training frames, one a row
    ζ²          ridge, under which the energies of held-out frames are most likely, and their
                differences: a constant shift of all energies explains the first alone as well
    a           eV, of which 80 % of them lie within 1.28 σ_E
    T           eV an atom: how far an open combination of elements' energies may be off
    w           √(mean_i σ_i²) over its geometric mean on held-out frames: how much worse than there
                forces are known; not below ½ √(mean_i max(1, γ_i)²), γ_i being the extrapolation
                grade, of a potential that has one
    σ_E²        w² a² φᵀ (ΦᵀΦ + ζ²)⁻¹ φ + ‖T n_0‖²

The last layer alone is blind to what the layers before it do not know: without w, on acetylacetone
of 600 K instead of 300 K, σ_E grows twice as much where errors grow four times. That w stands at
the power of 1 is laid down, not fitted: held-out frames from home hardly tell (their likelihood is
the same from ½ to 1).

σ_E grows with the number of atoms where a structure is made of more of the same: the error of one
unit is that of all. Errors are taken to follow a Student-t, whose tails are heavy.

T cannot be learned from the training frames, which is why the combination is open. Where nobody
gave the elements' energies, they are guesses from total energies, and T is twice the mean energy of
an atom (an element's energy is off that mean by 1.5 times as much in water and acetylacetone, by
2.7 times in methane); where they are given (isolated atoms), T is the binding energy of an atom.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from eip.composition import OpenEnergies, composition_span, open_energies
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.potential import Potential, WrappedPotential, layers
from eip.prediction import Prediction
from eip.uncertainty.network import NetworkPotential
from eip.uncertainty.registry import build_potential, describe_potential

#: Energies of fewer held-out frames say too little of how large errors are.
MIN_FRAMES = 10

#: ζ², as shares of the mean eigenvalue of ΦᵀΦ, among which the held-out energies choose.
_RIDGES = tuple(10.0**k for k in range(-8, 1))

#: Degrees of freedom of the Student-t that errors are taken to follow.
_DEGREES = 6.0

#: Of a Student-t of these degrees the 90th percentile over that of a Gaussian: 1.4398 / 1.2816.
_WIDTH = 1.12345

#: Of expectation and maximization, whose error falls by half or faster with each.
_STEPS = 60

Seen = Sequence[tuple[AtomGraph, Prediction]]


def network_inside(potential: Potential) -> NetworkPotential | None:
    """The one network with a last layer that a potential is made of; None where it is not."""
    *_, innermost = layers(potential)
    if isinstance(innermost, NetworkPotential) and innermost.energy_model.readout is not None:
        return innermost
    return None


class EnergyErrorPotential(WrappedPotential):
    """A potential whose energy has an error bar; see the module.

    Energy, forces and their uncertainty are those of the potential inside. σ_E is not
    differentiable: no dynamics is driven by it.

    Args:
        potential: made of one network, gives features.
        scale: a, eV.
        reference: of σ_i, eV/Å; None of a potential that has none.
        open_scales: T of each group, eV an atom.
        open_groups: of elements whose energies are open.

    Raises:
        InputError: if the potential is not made of one network with a readout.
    """

    kind: ClassVar[str] = "energy_error"
    center: Tensor
    root: Tensor

    def __init__(
        self,
        potential: Potential,
        scale: float = 1.0,
        reference: float | None = None,
        open_groups: Sequence[OpenEnergies] = (),
        open_scales: Sequence[float] = (),
    ) -> None:
        super().__init__(potential)
        self.scale, self.reference = scale, reference
        self.open_groups, self.open_scales = tuple(open_groups), tuple(open_scales)
        last: Any = self._readout[-1]
        count, hidden = len(self.elements), last.in_features
        self.register_buffer("center", torch.zeros(count, hidden))
        self.register_buffer("root", torch.eye(hidden + count))
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def network(self) -> NetworkPotential:
        """What the energies are of."""
        found = network_inside(self.potential)
        if found is None:
            raise InputError("an error bar of the energy needs one network with a last layer")
        return found

    @property
    def _readout(self) -> nn.Sequential:
        readout = self.network.energy_model.readout
        assert readout is not None
        return readout

    @property
    def undetermined(self) -> tuple[OpenEnergies, ...]:
        return self.open_groups

    def hidden(self, features: Float[Tensor, "atoms channels"]) -> Float[Tensor, "atoms hidden"]:
        """h_i, what the last layer reads; cut off from automatic differentiation."""
        found = features.detach()[:, : self.network.energy_model.backbone.channels]
        with torch.no_grad():
            for layer in list(self._readout)[:-1]:
                found = layer(found)
        return found

    def slopes(
        self, features: Float[Tensor, "atoms channels"], graph: AtomGraph
    ) -> tuple[Float[Tensor, "frames hidden"], Float[Tensor, "frames elements"]]:
        """Σ_i (h_i − h̄_Z(i)) and n, float64."""
        species = self.network.energy_model.species(graph)
        away = self.hidden(features) - self.center.index_select(0, species)
        counts = self._tables_on(species.device)[0].index_select(0, species)
        return graph.sum_by_frame(away.double()), graph.sum_by_frame(counts)

    def _tables_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """An element's row among the counts, and T n_0 of an atom; float64.

        Not buffers, because a module's casts take buffers along: in float32, hundreds of eV an atom
        that are to cancel would leave meV.
        """
        if device not in self._tables:
            with torch.inference_mode(False):
                rows = torch.eye(len(self.elements), dtype=torch.float64)
                columns = [rows[:, :0]]
                for group, size in zip(self.open_groups, self.open_scales, strict=True):
                    shifts = torch.tensor(group.directions, dtype=torch.float64)
                    which = [self.elements.index(z) for z in group.numbers]
                    columns.append(size * (shifts @ rows[which]).T)
                self._tables[device] = rows.to(device), torch.cat(columns, dim=1).to(device)
        return self._tables[device]

    def completed(self, prediction: Prediction, graph: AtomGraph) -> Prediction:
        if prediction.features is None:
            return prediction
        with torch.no_grad():
            hidden, counts = self.slopes(prediction.features, graph)
            known = self.scale * (torch.cat([hidden, counts], dim=1) @ self.root.double())
            left_open = counts @ self._tables_on(counts.device)[1]
            parts = torch.cat([known, left_open], dim=1)
            wider = widening(prediction, graph, self.reference)[:, None]
            factors = torch.cat([wider.expand_as(known), torch.ones_like(left_open)], dim=1)
            sigma = torch.linalg.vector_norm(parts * factors, dim=1)
        return replace(
            prediction,
            energy_uncertainty=sigma,
            energy_deviations=parts,
            energy_widening=factors,
        )

    def recalibrate(
        self,
        errors: Float[np.ndarray, "frames"],
        sigma: Float[np.ndarray, "frames"],
        counts: Float[np.ndarray, "frames elements"],
    ) -> bool:
        """Fits a again, on frames of which nothing is open; False where they are too few.

        Args:
            errors: E_true − E_pred, eV; NaN without a label.
            sigma: what this potential said of them, eV.
            counts: atoms of each of its elements.
        """
        device = torch.device("cpu")
        beside = np.abs(counts @ self._tables_on(device)[1].numpy()).max(axis=1, initial=0.0)
        usable = np.isfinite(errors) & (beside <= 1e-6)
        if usable.sum() < MIN_FRAMES:
            return False
        self.scale *= fit_scale(errors[usable], sigma[usable])[1]
        return True

    def settings(self) -> dict[str, Any]:
        """JSON-able: the potential inside, a, T and what is open; the rest is weights."""
        return {
            "potential": describe_potential(self.potential),
            "scale": self.scale,
            "reference": self.reference,
            "open_groups": [group.to_dict() for group in self.open_groups],
            "open_scales": list(self.open_scales),
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> EnergyErrorPotential:
        """Built again, with fresh weights inside."""
        return cls(
            build_potential(**settings["potential"]),
            settings["scale"],
            settings["reference"],
            [OpenEnergies.from_dict(group) for group in settings["open_groups"]],
            settings["open_scales"],
        )


def widening(
    prediction: Prediction, graph: AtomGraph, reference: float | None
) -> Float[Tensor, "frames"]:
    """w, detached; see the module."""
    grade = prediction.extrapolation_grade
    ones = torch.ones_like(graph.numbers) if grade is None else grade.clamp(min=1.0)
    away = _root_mean_square(ones, graph)
    if reference is None or prediction.force_uncertainty is None:
        return away
    known = _root_mean_square(prediction.force_uncertainty, graph) / reference
    return torch.maximum(known, 0.5 * away)


def _root_mean_square(
    per_atom: Shaped[Tensor, "atoms"], graph: AtomGraph
) -> Float[Tensor, "frames"]:
    return graph.mean_by_frame(per_atom.detach().double().square()).sqrt()


def fit_energy_error(
    potential: Potential,
    training: Iterable[AtomGraph],
    held_out: Iterable[tuple[AtomGraph, Float[Tensor, "frames"]]],
) -> EnergyErrorPotential:
    """Wraps a trained potential; about the cost of one epoch's predictions.

    Args:
        potential: trained, of one network.
        training: the graphs that it was trained on; labels are not needed.
        held_out: graphs that it was not trained on, with their energies, eV.

    Raises:
        InputError: if it is not of one network or gives no features, there is no training graph,
            or fewer than `MIN_FRAMES` held-out frames have an energy.
    """
    unscaled = EnergyErrorPotential(potential).to(device=potential.device, dtype=potential.dtype)
    seen = _predicted(potential, training)
    _center(unscaled, seen)
    hidden, counts = _slopes(unscaled, seen)
    energies = np.concatenate([p.energy.cpu().numpy() for _, p in seen])
    groups = open_energies(counts, unscaled.elements)
    sizes = [_open_scale(group, unscaled.network, counts, energies) for group in groups]

    # The span of the training compositions, and nothing beside it.
    span = composition_span(counts)
    known = np.hstack([hidden, counts @ span])
    values, vectors = np.linalg.eigh(known.T @ known)
    held_out = list(held_out)
    there = _predicted(potential, [graph for graph, _ in held_out])
    true = np.concatenate([energy.double().cpu().numpy() for _, energy in held_out])
    errors = true - np.concatenate([p.energy.cpu().numpy() for _, p in there])
    hidden, counts = _slopes(unscaled, there)
    along = np.hstack([hidden, counts @ span]) @ vectors
    reference = _reference(there)
    wider = torch.cat([widening(p, g, reference) for g, p in there]).cpu().numpy()
    labelled = np.isfinite(errors)
    if labelled.sum() < MIN_FRAMES:
        raise InputError(
            f"an error bar of the energy needs at least {MIN_FRAMES} held-out frames with "
            f"energies, got {labelled.sum()}"
        )
    errors, along, wider = _with_differences(errors[labelled], along[labelled], wider[labelled])
    best = math.inf
    for share in _RIDGES:
        stiffness = np.maximum(values, 0.0) + share * values.mean()
        length = np.linalg.norm(along / np.sqrt(stiffness), axis=1) * wider
        nll, scale = fit_scale(errors, length)
        if nll < best:
            best, chosen = nll, (scale, vectors / np.sqrt(stiffness))
    scale, directions = chosen
    fitted = EnergyErrorPotential(potential, scale, reference, groups, sizes)
    fitted = fitted.to(device=potential.device, dtype=potential.dtype)
    fitted.center.copy_(unscaled.center)
    width, count = hidden.shape[1], directions.shape[1]
    root = np.zeros(fitted.root.shape)
    root[:width, :count] = directions[:width]
    root[width:, :count] = span @ directions[width:]
    fitted.root.copy_(torch.as_tensor(root))
    return fitted


def _with_differences(
    errors: Float[np.ndarray, "frames"],
    along: Float[np.ndarray, "frames directions"],
    wider: Float[np.ndarray, "frames"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """And those of each frame and another, half of the set away: neighbors may be alike."""
    other = np.roll(np.arange(len(errors)), len(errors) // 2)
    return (
        np.concatenate([errors, errors - errors[other]]),
        np.concatenate([along, along - along[other]]),
        np.concatenate([wider, np.maximum(wider, wider[other])]),
    )


def fit_scale(
    errors: Float[np.ndarray, "frames"], length: Float[np.ndarray, "frames"]
) -> tuple[float, float]:
    """How unlikely errors are, and a: times lengths, the deviations of which they are most likely.

    Under a Student-t, by expectation and maximization; a is such that 80 % of what it describes
    lies within a Gaussian's 80 % interval.
    """
    # Two frames that are the same differ in nothing, but perhaps in their labels.
    length = np.maximum(length, 1e-6 * float(length.max()) + 1e-100)
    squared = (errors / length) ** 2
    least = 1e-24 * float(squared.mean()) + 1e-300
    scale = float(np.median(squared)) + least
    for _ in range(_STEPS):
        weight = (_DEGREES + 1.0) / (_DEGREES + squared / scale)
        scale = float((weight * squared).mean()) + least
    tails = 0.5 * (_DEGREES + 1.0) * np.log1p(squared / (_DEGREES * scale))
    nll = float((np.log(length) + tails).mean() + 0.5 * math.log(scale))
    return nll, math.sqrt(scale) * _WIDTH


def _predicted(
    potential: Potential, graphs: Iterable[AtomGraph]
) -> list[tuple[AtomGraph, Prediction]]:
    found = [(graph, potential(graph, forces=False)) for graph in graphs]
    if not found or found[0][1].features is None:
        raise InputError(
            "an error bar of the energy needs training and held-out frames and a potential with "
            "features"
        )
    return found


def _center(potential: EnergyErrorPotential, seen: Seen) -> None:
    """h̄ of each element; zero of one that no training frame has."""
    species = torch.cat([potential.network.energy_model.species(g) for g, _ in seen])
    hidden = torch.cat([potential.hidden(_features(p)).double() for _, p in seen])
    sums = hidden.new_zeros(potential.center.shape).index_add(0, species, hidden)
    counts = torch.bincount(species, minlength=len(sums)).clamp(min=1)
    potential.center.copy_(sums / counts[:, None])


def _slopes(potential: EnergyErrorPotential, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame, as columns of hidden units and of elements."""
    found = [potential.slopes(_features(p), g) for g, p in seen]
    hidden, counts = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    return hidden, counts


def _features(prediction: Prediction) -> Tensor:
    assert prediction.features is not None  # _predicted has looked
    return prediction.features


def _reference(seen: Seen) -> float | None:
    """Geometric mean over frames of the root mean square of σ_i; None where there is no σ_i."""
    sigmas = [
        _root_mean_square(p.force_uncertainty, g)
        for g, p in seen
        if p.force_uncertainty is not None
    ]
    return float(torch.cat(sigmas).clamp(min=1e-12).log().mean().exp()) if sigmas else None


def _open_scale(
    group: OpenEnergies, network: NetworkPotential, counts: np.ndarray, energies: np.ndarray
) -> float:
    """T: how much an open combination of elements' energies may be off, eV an atom."""
    table = network.energy_model.element_energies
    sizes = counts.sum(axis=1)
    bound = (energies - counts @ np.array([table[z] for z in network.elements])) / sizes
    total = energies / sizes
    own = np.array([table[z] for z in group.numbers])
    # What the fit of E0 gives where it knows nothing: the mean energy of an atom, or the same to
    # several elements, or none at all. See `eip.data.fit_element_energies`.
    away = np.linalg.norm(np.array(group.directions) @ (own - total.mean()))
    alike = np.diff(np.sort(own)) <= 1e-6 * np.abs(own).max()
    guessed = away <= 1e-2 * abs(total.mean()) or bool(alike.any()) or not own.any()
    spread = 2.0 * total if guessed else bound
    return max(float(np.sqrt((spread**2).mean())), network.energy_model.force_scale)
