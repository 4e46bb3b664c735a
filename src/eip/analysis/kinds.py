"""Which two order parameters tell most about a structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int

from eip.analysis.molecules import (
    Molecules,
    backbone_torsions,
    kinds_of_torsions,
    names_of_torsions,
)
from eip.analysis.order_parameters import (
    Phosphates,
    chain_shapes,
    phosphate_geometry,
    radius_of_gyration,
    torsions,
)
from eip.errors import InputError, did_you_mean

#: lifepo4: P–O–Fe angle and distortion of each PO4. polymer: end-to-end distance and radius of
#: gyration of each chain. molecule: its first two torsions. none: no order parameters.
Kind = Literal["lifepo4", "polymer", "molecule", "none"]

#: Other names of a kind.
_ALIASES = {"pdms": "polymer"}
#: Heavy atoms of a backbone from which a molecule is taken for a polymer without being told.
_POLYMER_FROM = 8
#: Torsions of a molecule that are told apart; of more, those of the same elements are one.
_NAMED_TORSIONS = 12

_Samples = Float[np.ndarray, "samples"]
Pair = tuple[_Samples, _Samples]
#: Of each order parameter; None where it follows from the samples.
Limits = tuple[tuple[float, float] | None, tuple[float, float] | None]


@dataclass(frozen=True, eq=False)
class Measure:
    """How the order parameters of a kind are taken, with what the first frame says of bonds.

    Attributes:
        kind: as asked for, or found.
        names: of the two order parameters, with units; None for the kind "none".
        take: structure → samples of both.
        ranges: where they do not follow from the samples, as those of angles of a full turn.
        torsions: of which histograms are taken, by name.
        numbers: atomic numbers that every frame must have, in this order.
    """

    kind: Kind
    numbers: Int[np.ndarray, "atoms"]
    names: tuple[str, str] | None = None
    take: Callable[[Atoms], Pair] | None = None
    ranges: Limits | None = None
    torsions: dict[str, Int[np.ndarray, "torsions 4"]] = field(default_factory=dict)

    def fits(self, atoms: Atoms) -> bool:
        return np.array_equal(self.numbers, atoms.numbers)


def kind_named(name: str) -> Kind | None:
    """None for "auto".

    Raises:
        InputError: if there is no such kind.
    """
    if name == "auto":
        return None
    name = _ALIASES.get(name, name)
    if name not in get_args(Kind):
        known = [*get_args(Kind), *_ALIASES, "auto"]
        raise InputError(f"unknown kind '{name}': {did_you_mean(name, known)}")
    return cast(Kind, name)


def measure_of(atoms: Atoms, kind: Kind | None = None) -> Measure:
    """The order parameters of a run, from its first frame; kind None is found out.

    Raises:
        InputError: if the structure has not what the kind is about.
    """
    kind = guess_kind(atoms) if kind is None else kind
    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    if kind == "lifepo4":
        phosphates = Phosphates.of(atoms)
        if not len(phosphates.centers):
            raise InputError("there is no phosphate")
        return Measure(
            kind,
            numbers,
            ("P–O–Fe angle (°)", "PO4 distortion (°)"),
            lambda frame: phosphate_geometry(frame, phosphates),
        )
    if kind == "polymer":
        return _polymer(atoms, numbers)
    if kind == "molecule":
        return _molecule(atoms, numbers)
    return Measure("none", numbers)


def guess_kind(atoms: Atoms) -> Kind:
    """lifepo4: phosphates with Fe; polymer: a backbone of eight; molecule: one, that can turn."""
    if {"P", "O", "Fe"} <= set(atoms.symbols.species()):
        try:
            Phosphates.of(atoms)
        except InputError:
            pass
        else:
            return "lifepo4"
    molecules = Molecules.of(atoms)
    if molecules.endless(atoms):
        return "none"
    alone = len(molecules.members) == 1
    longest = max((len(chain) for chain in molecules.chains), default=0)
    if longest >= _POLYMER_FROM and (atoms.pbc.any() or not alone):
        return "polymer"
    return "molecule" if alone and len(molecules.torsions(atoms)) else "none"


def _polymer(atoms: Atoms, numbers: Int[np.ndarray, "atoms"]) -> Measure:
    molecules = Molecules.of(atoms)
    if molecules.endless(atoms):
        raise InputError("its bonds go on through the cell's faces, so there are no ends")
    if not len(chain_shapes(atoms, molecules)[0]):
        raise InputError("there is no chain: no molecule has a backbone of three atoms")
    four = np.concatenate([backbone_torsions(chain) for chain in molecules.chains])
    return Measure(
        "polymer",
        numbers,
        ("end-to-end distance (Å)", "radius of gyration (Å)"),
        lambda frame: chain_shapes(frame, molecules),
        torsions=_by_kind(atoms, four),
    )


def _molecule(atoms: Atoms, numbers: Int[np.ndarray, "atoms"]) -> Measure:
    molecules = Molecules.of(atoms)
    if len(molecules.members) != 1:
        raise InputError(f"one molecule is expected, there are {len(molecules.members)}")
    if molecules.endless(atoms):
        raise InputError("its bonds go on through the cell's faces, so it is no molecule")
    four = molecules.torsions(atoms)
    if not len(four):
        raise InputError("the molecule has no bond to turn around")
    names = names_of_torsions(atoms.get_chemical_symbols(), four)
    turn = (-180.0, 180.0)
    of = dict(zip(names, four[:, None], strict=True))
    if len(four) > _NAMED_TORSIONS:
        of = _by_kind(atoms, four)
    if len(four) >= 2:
        return Measure(
            "molecule",
            numbers,
            (f"{names[0]} (°)", f"{names[1]} (°)"),
            lambda frame: _split(torsions(frame, four[:2])),
            (turn, turn),
            of,
        )

    def one_and_size(frame: Atoms) -> Pair:
        size = radius_of_gyration(molecules.whole(frame), frame.get_masses())
        return torsions(frame, four), np.array([size])

    return Measure(
        "molecule",
        numbers,
        (f"{names[0]} (°)", "radius of gyration (Å)"),
        one_and_size,
        (turn, None),
        of,
    )


def _split(both: Float[np.ndarray, "2"]) -> Pair:
    return both[:1], both[1:]


def _by_kind(
    atoms: Atoms, four: Int[np.ndarray, "torsions 4"]
) -> dict[str, Int[np.ndarray, "some 4"]]:
    kinds = np.array(kinds_of_torsions(atoms.get_chemical_symbols(), four))
    return {str(kind): four[kinds == kind] for kind in np.unique(kinds)}
