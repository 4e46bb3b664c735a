"""From a file's units to eV, Å, eV/Å and eV/Å³: as the user says, else as the file declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eip.data.labels import UNIT_NAMES, Labels
from eip.errors import InputError
from eip.units import UNITS, unit_factor


def declared_units(held: Mapping[str, object]) -> dict[str, str]:
    """The units that a file declares beside its labels, by what they are of.

    Raises:
        InputError: if two of its keys contradict each other.
    """
    folded = {key.casefold(): value for key, value in held.items() if isinstance(value, str)}
    declared: dict[str, str] = {}
    for kind, names in UNIT_NAMES.items():
        there = [name for name in names if name in folded]
        if len({folded[name].casefold() for name in there}) > 1:
            said = " and ".join(f"{name}={folded[name]}" for name in there)
            raise InputError(f"{said} contradict each other")
        if there:
            declared[kind] = folded[there[0]]
    return declared


@dataclass(frozen=True)
class Scales:
    """Factors from a file's units to eV, Å, eV/Å, eV/Å³; text where a factor has to be asked for.

    ``stress`` has the sign in it; ``virial`` is a factor to eV. ``of_stress``: somebody said what
    unit or sign a stress has.
    """

    energy: float = 1.0
    length: float = 1.0
    forces: float | str = 1.0
    stress: float | str = 1.0
    virial: float = 1.0
    of_stress: bool = False


def scales(
    labels: Labels, declared: Mapping[str, str], where: str, *, forbid_default: str = ""
) -> Scales:
    """The factors by the user's declaration, by the file's where the user gave none, else eV, Å.

    Args:
        declared: what the file says, for "energy", "length", "forces", "stress", "virial".
        forbid_default: why eV must not be taken for granted here; empty where it may.

    Raises:
        InputError: if the file and the user contradict each other, the file's unit is unknown and
            the user gave none, or nobody gave a unit where one is needed.
    """
    given = {
        kind: None if labels.yielding and declared.get(kind) else getattr(labels, f"{kind}_unit")
        for kind in UNITS
    }
    own = {kind: _factor(kind, given[kind], declared, where) for kind in UNITS}
    if own["energy"] is None and forbid_default:
        raise InputError(f"{where}: {forbid_default}")
    energy = 1.0 if own["energy"] is None else own["energy"]
    length = 1.0 if own["length"] is None else own["length"]
    virial = _factor("energy", None, {"energy": declared.get("virial", "")}, where, "virial")
    factors: dict[str, float | str] = {}
    for kind, power in (("forces", 1), ("stress", 3)):
        said = own[kind]
        if said is not None:
            factors[kind] = said
        elif _is_guess(energy, length):
            factors[kind] = _ask(kind, given["energy"] or declared["energy"], power)
        else:
            factors[kind] = energy / length**power
    theirs = labels.yielding and "stress" in declared
    sign = -1.0 if labels.stress_sign == "vasp" and not theirs else 1.0
    stress = factors["stress"]
    return Scales(
        energy,
        length,
        factors["forces"],
        stress if isinstance(stress, str) else sign * stress,
        energy if virial is None else virial,
        own["stress"] is not None or sign < 0,
    )


def _is_guess(energy: float, length: float) -> bool:
    """Programs in Hartree or Ry write forces per Bohr, data sets of theirs per Å as well."""
    atomic = (UNITS["energy"]["Hartree"], UNITS["energy"]["Ry"])
    return energy in atomic and length != UNITS["length"]["Bohr"]


def _ask(kind: str, energy_unit: str, power: int) -> str:
    cube = f"^{power}" if power > 1 else ""
    choice = [f"{energy_unit}/Bohr{cube}", f"{energy_unit}/Ang{cube}"]
    choice += ["GPa"] if power > 1 else []
    return (
        f"energies are in {energy_unit} and lengths are not in Bohr, so the unit of {kind} "
        f"cannot be told; give {kind}_unit, {', '.join(choice)} say"
    )


def _factor(
    kind: str, given: str | None, declared: Mapping[str, str], where: str, name: str | None = None
) -> float | None:
    """Of the unit of this kind that the user gave, or the file; None if neither did."""
    said = declared.get(kind) or None
    factor = unit_factor(kind, said) if said is not None else None
    if given is not None:
        known = unit_factor(kind, given)
        assert known is not None  # Labels has looked
        if factor is not None and not np.isclose(factor, known, rtol=1e-3):
            raise InputError(
                f"{where}: the file declares {kind} in '{said}', but {kind}_unit='{given}' was "
                "given"
            )
        return known
    if said is not None and factor is None:
        advice = "convert it to one of" if name else f"give {kind}_unit, one of"
        raise InputError(
            f"{where}: the file declares {name or kind} in '{said}', a unit that is not known; "
            f"{advice} {', '.join(UNITS[kind])}"
        )
    return factor
