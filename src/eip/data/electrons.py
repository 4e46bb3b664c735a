"""Charge and multiplicity of a structure, as its info says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from eip.errors import InputError

CHARGE_NAMES = ("charge", "total_charge", "tot_charge", "net_charge")
#: All of them 2S + 1; ``spin`` too, as OMol25 has it.
MULTIPLICITY_NAMES = ("multiplicity", "spin_multiplicity", "mult", "spin")


@dataclass(frozen=True)
class Electrons:
    """What a structure says of its electrons; None where it says nothing.

    Attributes:
        charge: of the whole structure, e.
        multiplicity: 2S + 1.
    """

    charge: int | None = None
    multiplicity: int | None = None

    def is_plain(self, atoms: Atoms) -> bool:
        """Whether this is what a method takes for granted: neutral, the fewest unpaired."""
        return not self.charge and self.multiplicity in (None, lowest_multiplicity(atoms, 0))

    def as_info(self) -> dict[str, int]:
        """As a structure's info says it."""
        said = {"charge": self.charge, "multiplicity": self.multiplicity}
        return {name: value for name, value in said.items() if value is not None}


#: Of a structure that says nothing.
UNSAID = Electrons()


def electrons_in(held: Mapping[str, Any]) -> Electrons:
    """What a frame of reference data says of its electrons.

    Unlike `electrons_of`, it takes what is no whole number, or contradicts itself, for something
    else under the same name: labels do not hang on it.
    """
    found: list[int | None] = []
    for names in (CHARGE_NAMES, MULTIPLICITY_NAMES):
        try:
            found.append(_whole(held, names))
        except InputError:
            found.append(None)
    charge, multiplicity = found
    return Electrons(charge, multiplicity if multiplicity is None or multiplicity > 0 else None)


def electrons_of(atoms: Atoms) -> Electrons:
    """What ``atoms.info`` says under `CHARGE_NAMES` and `MULTIPLICITY_NAMES`.

    Raises:
        InputError: if a value is no whole number, or two names contradict each other.
    """
    multiplicity = _whole(atoms.info, MULTIPLICITY_NAMES)
    if multiplicity is not None and multiplicity < 1:
        raise InputError(
            f"spin and multiplicity are 2S + 1, so 1 (a singlet) or more, got {multiplicity}"
        )
    return Electrons(_whole(atoms.info, CHARGE_NAMES), multiplicity)


def _whole(held: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found: dict[str, int] = {}
    for name, value in held.items():
        if value is None or not isinstance(name, str) or name.casefold() not in names:
            continue
        try:
            number = float(value)
            if isinstance(value, bool) or not number.is_integer():
                raise ValueError
        except (TypeError, ValueError):
            raise InputError(f"'{name}' should be a whole number, got {value}") from None
        found[name] = int(number)
    if len(set(found.values())) > 1:
        raise InputError(
            f"{' and '.join(f'{name}={value}' for name, value in found.items())} contradict "
            "each other"
        )
    return next(iter(found.values()), None)


def lowest_multiplicity(atoms: Atoms, charge: int) -> int:
    """1 for an even number of electrons, 2 for an odd one."""
    return 1 + (int(atoms.numbers.sum()) - charge) % 2


def given_electrons(
    atoms: Atoms, charge: int | None, multiplicity: int | None, method: str
) -> tuple[int, int]:
    """Charge and multiplicity of a calculation: the structure's, else those of the method.

    Args:
        charge, multiplicity: what the method was told for all structures; None: nothing.

    Raises:
        InputError: if both say something else, or the multiplicity does not fit the electrons.
    """
    own = electrons_of(atoms)
    for name, one, other in (
        ("charge", own.charge, charge),
        ("multiplicity", own.multiplicity, multiplicity),
    ):
        if one is not None and other is not None and one != other:
            raise InputError(
                f"the structure has {name} {one}, and {method} was told {name}={other} for all"
            )
    whole = next((c for c in (own.charge, charge) if c is not None), 0)
    chosen = own.multiplicity if own.multiplicity is not None else multiplicity
    return whole, fitting_multiplicity(atoms, whole, chosen)


def fitting_multiplicity(atoms: Atoms, charge: int, multiplicity: int | None) -> int:
    """The given 2S + 1, or the lowest that the number of electrons allows.

    Raises:
        InputError: if it does not fit the number of electrons.
    """
    electrons = int(atoms.numbers.sum()) - charge
    if electrons < 0:
        raise InputError(f"{atoms.get_chemical_formula()} has fewer electrons than charge {charge}")
    if multiplicity is None:
        return lowest_multiplicity(atoms, charge)
    if (electrons + multiplicity) % 2 == 0 or multiplicity > electrons + 1:
        raise InputError(
            f"{atoms.get_chemical_formula()} with charge {charge} has {electrons} electrons: a "
            f"multiplicity of {multiplicity} is impossible"
        )
    return multiplicity


def check_multiplicity(multiplicity: int | None) -> None:
    """Raises an InputError unless it is None or a whole number from 1 on."""
    if multiplicity is not None and multiplicity < 1:
        raise InputError(f"multiplicity must be 1 (a singlet) or more, got {multiplicity}")
