"""What a data set says as a whole: element energies, force RMS, a summary to look at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float64, Int

from eip.composition import OpenEnergies, open_energies
from eip.data.frame import LABELS
from eip.data.store import FrameStore
from eip.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

# Below this fraction of the largest singular value a combination of elements counts as absent.
_RANK_TOLERANCE = 1e-9
_EVIDENCE_STEPS = 50


def fit_element_energies(
    store: FrameStore,
    indices: Int[np.ndarray, "frames"] | None = None,
    *,
    given: Mapping[int, float] | None = None,
) -> dict[int, float]:
    """E0 of each element, eV: E ≈ Σ_i E0(Z_i) by ridge regression on energies per atom (theory §1).

    Elements are drawn towards the mean energy of an atom, as strongly as the evidence of the data
    asks for (D. J. C. MacKay, Neural Comput. 4 (1992) 415): an element of one frame among 89
    elements does not take up that frame's whole bonding energy, while molecules whose energies a
    sum explains are fitted as by least squares. Where compositions do not tell elements apart (a
    single molecule, say) all are given that mean, which absorbs the total energies all the same,
    so that the residuals a network learns are small. The equations are reduced by QR block by
    block, in constant memory and without squaring their condition number as normal equations would.

    Args:
        indices: frames to fit to; all where None.
        given: isolated-atom energies to keep, eV; only the other elements are fitted.

    Raises:
        InputError: if a frame has no energy.
    """
    given = dict(given or {})
    chosen = _chosen(store, indices)
    elements = _elements(store, chosen)
    fitted = [z for z in elements if z not in given]
    if not fitted:
        return {z: float(given[z]) for z in elements}
    _demand(store, chosen, "energy")
    fixed = np.array([given.get(z, 0.0) for z in elements])
    is_fitted = np.array([z in fitted for z in elements])
    triangle = np.zeros((0, len(fitted) + 1))
    for block in store.blocks(chosen):
        counts = _composition(store, block, elements)
        weight = 1.0 / counts.sum(axis=1)
        target = store.energies[block] - counts @ fixed
        rows = np.column_stack([counts[:, is_fitted], target]) * weight[:, None]
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, rows]), mode="r"))
    solution = _ridge(triangle[:, :-1], triangle[:, -1], len(chosen))
    energies = dict(zip(fitted, solution.tolist(), strict=True))
    return {z: float(energies.get(z, given.get(z, 0.0))) for z in elements}


def fit_energy_shifts(
    store: FrameStore,
    indices: Int[np.ndarray, "frames"],
    predicted: Float64[np.ndarray, "frames"],
    *,
    fixed: Collection[int] = (),
) -> dict[int, float]:
    """What each element's energy is off by, eV: label − prediction ≈ Σ_i shift(Z_i), as
    `fit_element_energies`; 0 of the elements that are ``fixed``.

    Args:
        predicted: energies of the frames at ``indices``, eV.
    """
    elements = _elements(store, indices)
    free = np.array([z not in fixed for z in elements])
    if not free.any():
        return dict.fromkeys(elements, 0.0)
    counts = _composition(store, indices, elements)
    weight = 1.0 / counts.sum(axis=1)
    target = weight * (store.energies[indices] - predicted)
    solution = iter(_ridge(weight[:, None] * counts[:, free], target, len(indices)))
    return {z: float(next(solution)) if f else 0.0 for z, f in zip(elements, free, strict=True)}


def _ridge(
    rows: Float64[np.ndarray, "rows elements"], target: Float64[np.ndarray, "rows"], count: int
) -> Float64[np.ndarray, "elements"]:
    """The most likely coefficients of ``count`` equations, reduced to these, round one mean."""
    together = rows.sum(axis=1)
    mean = together @ target / (together @ together)
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    reduced = left.T @ (target - mean * together)
    beyond = float(np.sum((target - mean * together) ** 2) - np.sum(reduced**2))
    least = (_RANK_TOLERANCE * values[0]) ** 2
    strength = least
    for _ in range(_EVIDENCE_STEPS):
        solution = values * reduced / (values**2 + strength)
        determined = float(np.sum(values**2 / (values**2 + strength)))
        noise = max(beyond, 0.0) + float(np.sum((reduced - values * solution) ** 2))
        size = float(np.sum(solution**2))
        if size == 0.0 or count <= determined:
            break
        strength = max(least, noise / (count - determined) * determined / size)
    return mean + right.T @ (values * reduced / (values**2 + strength))


def open_energies_of(
    store: FrameStore, indices: Int[np.ndarray, "frames"] | None = None
) -> list[OpenEnergies]:
    """What the frames' compositions leave open of the elements' energies."""
    chosen = _chosen(store, indices)
    elements = _elements(store, chosen)
    rows = np.zeros((0, len(elements)))
    for block in store.blocks(chosen):
        # Few of many frames differ in composition: constant memory.
        rows = np.unique(np.vstack([rows, _composition(store, block, elements)]), axis=0)
    return open_energies(rows, elements)


def energy_scale(
    store: FrameStore,
    indices: Int[np.ndarray, "frames"] | None,
    element_energies: Mapping[int, float],
) -> float:
    """RMS of what the elements' energies leave of the energies per atom, eV, from its mean.

    What takes the place of `force_scale` where there are no forces.

    Raises:
        InputError: if a frame has no energy.
    """
    chosen = _chosen(store, indices)
    _demand(store, chosen, "energy")
    elements = _elements(store, chosen)
    fixed = np.array([element_energies[z] for z in elements])
    left = np.concatenate(
        [
            (store.energies[block] - _composition(store, block, elements) @ fixed)
            / store.n_atoms[block]
            for block in store.blocks(chosen)
        ]
    )
    return float(left.std()) or 1.0


def force_scale(
    store: FrameStore, indices: Int[np.ndarray, "frames"] | None = None, kind: str = "rms"
) -> float:
    """The unit in which a network meets forces: `force_rms`, or with "mean" their mean absolute
    component, which a few large forces do not move; eV/Å.

    Raises:
        InputError: as `force_rms`.
    """
    rms = force_rms(store, indices)
    if kind == "rms":
        return rms
    total, components = 0.0, 0
    for block in store.blocks(_chosen(store, indices)):
        sizes = np.abs(store.column("forces")[store.atoms_of(block)[0]])
        total += float(sizes.sum())
        components += sizes.size
    return total / components


def force_rms(store: FrameStore, indices: Int[np.ndarray, "frames"] | None = None) -> float:
    """Root mean square over all force components of all frames, eV/Å.

    Raises:
        InputError: if a frame has no forces, or all of them are zero.
    """
    chosen = _chosen(store, indices)
    _demand(store, chosen, "forces")
    rms = _force_moments(store, chosen)[0]
    if rms == 0:
        raise InputError(f"{store.path}: all forces are exactly zero; were they ever computed?")
    return rms


@dataclass(frozen=True)
class DataSummary:
    """What a data set holds. Energies eV, forces eV/Å.

    Attributes:
        frames, atoms: how many there are.
        atoms_min, atoms_max: the smallest and the largest frame.
        elements: atoms by chemical symbol, by ascending atomic number.
        energy_per_atom_min, energy_per_atom_max: eV/atom; None without energies.
        force_rms: over all components, eV/Å; None without forces.
        force_max: the largest norm of an atom's force, eV/Å.
        periodic: frames that are periodic in no, some, all directions.
        labels: frames that have each label.
        sources: the files.
        isolated_atoms: energies of isolated atoms in them, by symbol, eV; no frames of the set.
    """

    frames: int
    atoms: int
    atoms_min: int
    atoms_max: int
    elements: dict[str, int]
    energy_per_atom_min: float | None
    energy_per_atom_max: float | None
    force_rms: float | None
    force_max: float | None
    periodic: dict[str, int]
    labels: dict[str, int]
    sources: list[str]
    isolated_atoms: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the keys are the attributes."""
        return asdict(self)

    def table(self, title: str = "data") -> Table:
        """To print with rich."""
        from rich.table import Table  # only who prints needs it

        table = Table(title=title, show_header=False)
        table.add_column("what", style="bold")
        table.add_column("value")
        for what, value in self._rows():
            table.add_row(what, value)
        return table

    def _rows(self) -> list[tuple[str, str]]:
        sizes = f"{self.atoms_min}"
        if self.atoms_max != self.atoms_min:
            sizes += f" to {self.atoms_max}"
        elements = list(self.elements.items())
        named = ", ".join(f"{symbol} {count:,}" for symbol, count in elements[:12])
        if len(elements) > 12:
            named += f", … ({len(elements)} elements)"
        energy = forces = "none"
        if self.energy_per_atom_min is not None and self.energy_per_atom_max is not None:
            energy = f"{self.energy_per_atom_min:.4f} to {self.energy_per_atom_max:.4f} eV/atom"
        if self.force_rms is not None and self.force_max is not None:
            forces = f"RMS {self.force_rms:.3f} eV/Å by component, largest {self.force_max:.2f}"
        periodic = ", ".join(
            f"{directions} directions: {count:,} frames"
            for directions, count in self.periodic.items()
            if count
        )
        isolated = ", ".join(f"{symbol} {e:.6g} eV" for symbol, e in self.isolated_atoms.items())
        return [
            ("frames", f"{self.frames:,}"),
            ("atoms in a frame", f"{sizes} ({self.atoms:,} in all)"),
            ("elements", named),
            ("energy", energy),
            ("forces", forces),
            ("periodic in", periodic),
            ("labels", ", ".join(f"{name} {count:,}" for name, count in self.labels.items())),
            *([("isolated atoms", f"{isolated}; E0, no frames")] if isolated else []),
            ("files", "\n".join([*self.sources[:8], *(["…"] if len(self.sources) > 8 else [])])),
        ]


def summarize(store: FrameStore, indices: Int[np.ndarray, "frames"] | None = None) -> DataSummary:
    """Counts and ranges of a data set, in one pass over the disk."""
    chosen = _chosen(store, indices)
    sizes = store.n_atoms[chosen]
    has = {label: store.has(label)[chosen] for label in LABELS}
    by_number = np.zeros(256, dtype=np.int64)
    for block in store.blocks(chosen):
        by_number += np.bincount(store.numbers_of(block)[0], minlength=256)
    per_atom = (store.energies[chosen] / sizes)[has["energy"]]
    rms, largest = None, None
    if has["forces"].any():
        rms, largest = _force_moments(store, chosen[has["forces"]])
    directions = store.column("pbc")[chosen].sum(axis=1)
    files = np.unique(store.column("source")[chosen])
    return DataSummary(
        frames=len(chosen),
        atoms=int(sizes.sum()),
        atoms_min=int(sizes.min()),
        atoms_max=int(sizes.max()),
        elements={chemical_symbols[z]: int(by_number[z]) for z in np.flatnonzero(by_number)},
        energy_per_atom_min=float(per_atom.min()) if len(per_atom) else None,
        energy_per_atom_max=float(per_atom.max()) if len(per_atom) else None,
        force_rms=rms,
        force_max=largest,
        periodic={
            "no": int((directions == 0).sum()),
            "some": int(((directions > 0) & (directions < 3)).sum()),
            "all": int((directions == 3).sum()),
        },
        labels={label: int(column.sum()) for label, column in has.items()},
        sources=[store.sources[i] for i in files],
        isolated_atoms={chemical_symbols[z]: e for z, e in store.isolated_atoms.items()},
    )


def _chosen(store: FrameStore, indices: np.ndarray | None) -> np.ndarray:
    chosen = np.arange(len(store)) if indices is None else np.asarray(indices, dtype=np.int64)
    if len(chosen) == 0:
        raise InputError(f"{store.path}: no frames were chosen")
    return chosen


def _demand(store: FrameStore, chosen: np.ndarray, label: str) -> None:
    missing = chosen[~store.has(label)[chosen]]
    if len(missing):
        raise InputError(
            f"{store.source(int(missing[0]))} has no {label} ({len(missing)} of {len(chosen)} "
            "frames lack it)"
        )


def _elements(store: FrameStore, chosen: np.ndarray) -> list[int]:
    present: set[int] = set()
    for block in store.blocks(chosen):
        present.update(np.unique(store.numbers_of(block)[0]).tolist())
    return sorted(present)


def _composition(
    store: FrameStore, block: np.ndarray, elements: list[int]
) -> Float64[np.ndarray, "frames elements"]:
    numbers, frame = store.numbers_of(block)
    column = np.searchsorted(elements, numbers)
    flat = np.bincount(frame * len(elements) + column, minlength=len(block) * len(elements))
    return flat.reshape(len(block), len(elements)).astype(np.float64)


def _force_moments(store: FrameStore, chosen: np.ndarray) -> tuple[float, float]:
    """RMS of the components, largest norm."""
    total, components, largest = 0.0, 0, 0.0
    for block in store.blocks(chosen):
        squares = store.column("forces")[store.atoms_of(block)[0]] ** 2
        total += float(squares.sum())
        components += squares.size
        largest = max(largest, float(squares.sum(axis=1).max()))
    return float(np.sqrt(total / components)), float(np.sqrt(largest))
