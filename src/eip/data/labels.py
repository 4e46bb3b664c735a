"""Under which names and in which units a file holds its labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eip.errors import InputError, did_you_mean
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM

_PREFIXES = ("", "REF_", "ref_", "DFT_", "dft_")
#: Names that are tried where the user names none.
COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "energy": (*(f"{p}energy" for p in _PREFIXES), "energy_dft", "total_energy", "Energy"),
    "forces": (
        *(f"{p}{name}" for p in _PREFIXES for name in ("forces", "force")),
        "forces_dft",
        "atomic_forces",  # ISO17
        "Forces",
    ),
    "stress": tuple(f"{p}stress" for p in _PREFIXES),
    "virial": tuple(f"{p}{name}" for p in _PREFIXES for name in ("virial", "virials")),
}
#: Under which names files say what material a frame is of.
GROUP_NAMES: tuple[str, ...] = ("material_id", "mp_id", "mptrj_traj_id")
#: The group key that makes of each file a group.
BY_FILE = "file"


@dataclass(frozen=True)
class Labels:
    """The keys of the labels in a file, and the units of the file.

    A key that is None is looked for under the common names (energy, forces, stress, the same with
    REF_, ref_, DFT_, dft_ before them; what ASE's calculators call them). One that is given must
    be in the first frame of each file. A key with "virial" in its name is converted,
    stress = −virial/V.

    A unit that is None is what the file itself declares (``energy_unit``, ``forces_unit``,
    ``e_unit``, ``r_unit``, SchNetPack's metadata), else eV and Å. Forces are in energy/length and
    stress in energy/length³ of these units.

    ``group`` is the key of what frames share that must not be split, "file" for the file itself; if
    it is None, the names that files have for a material's id are looked for.

    Raises:
        InputError: on an unknown unit.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("energy_unit", ENERGY_IN_EV), ("length_unit", LENGTH_IN_ANGSTROM)):
            unit = getattr(self, name)
            if unit is not None and unit not in known:
                raise InputError(f"unknown {name} '{unit}': {did_you_mean(unit, known)}")

    def find(
        self, label: str, held: Mapping[str, Any], where: str, *, extra: tuple[str, ...] = ()
    ) -> str | None:
        """The key under which ``held`` has a label ("energy", "forces", "stress"), or None.

        Raises:
            InputError: if two common names are there and do not say the same.
        """
        given = getattr(self, label)
        if given is not None:
            return given if given in held else None
        groups = [(*COMMON_NAMES[label], *extra)]
        if label == "stress":
            groups.append(COMMON_NAMES["virial"])
        for names in groups:
            found = [name for name in names if name in held]
            for other in found[1:]:
                if not _same(held[found[0]], held[other]):
                    raise InputError(
                        f"{where}: {label} is there both as '{found[0]}' and as '{other}', and "
                        f"they differ; name the one to read, {label}='{other}' say"
                    )
            if found:
                return found[0]
        return None

    def find_group(self, held: Mapping[str, Any], where: str) -> str | None:
        """The group of a frame that holds these values; None if it says nothing of one.

        Raises:
            InputError: if what is there is no single word or number.
        """
        if self.group == BY_FILE:
            return where.rpartition("#")[0]
        keys = GROUP_NAMES if self.group is None else (self.group,)
        key = next((name for name in keys if name in held), None)
        if key is None:
            return None
        value = np.asarray(held[key])
        if value.size != 1 or value.dtype.hasobject:
            raise InputError(
                f"{where}: '{key}' groups frames, so it should be one word or number, got "
                f"{str(held[key])[:60]}"
            )
        return str(value.item())

    def demand(self, held: Iterable[str], where: str) -> None:
        """Raises an InputError if a key that was given is not among ``held``."""
        held = sorted(set(held))
        for label in ("energy", "forces", "stress"):
            key = getattr(self, label)
            if key is not None and key not in held:
                hint = did_you_mean(key, held) if held else "it holds no labels at all"
                raise InputError(f"{where} has no '{key}' to read {label} from: {hint}")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):  # shapes of arrays on disk: unread
        return False
    try:
        return bool(np.allclose(np.ravel(one), np.ravel(other), rtol=1e-6, atol=1e-9))
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True)
class Scales:
    """Factors from a file's units to eV, Å, eV/Å, eV/Å³."""

    energy: float = 1.0
    length: float = 1.0
    forces: float = 1.0
    stress: float = 1.0


def scales(
    labels: Labels, declared: Mapping[str, str], where: str, *, forbid_default: str = ""
) -> Scales:
    """The factors by the user's declaration, by the file's where the user gave none, else eV, Å.

    Args:
        declared: what the file says, for "energy", "length", "forces", "stress".
        forbid_default: why eV must not be taken for granted here; empty where it may.

    Raises:
        InputError: if the file and the user contradict each other, the file's unit is unknown and
            the user gave none, or nobody gave a unit where one is needed.
    """
    if labels.energy_unit is None and labels.length_unit is None and not declared:
        if forbid_default:
            raise InputError(f"{where}: {forbid_default}")
        return Scales()
    length_scale = _scale("length", labels.length_unit, declared, LENGTH_IN_ANGSTROM, where)
    energy_scale = _scale("energy", labels.energy_unit, declared, ENERGY_IN_EV, where)
    if energy_scale is None and forbid_default:
        raise InputError(f"{where}: {forbid_default}")
    length = 1.0 if length_scale is None else length_scale
    energy = 1.0 if energy_scale is None else energy_scale
    composite = {}
    for kind, power in (("forces", 1), ("stress", 3)):
        factor = energy / length**power
        name = declared.get(kind)
        if name is not None:
            said = _composite(name, power)
            if said is None and labels.energy_unit is None:
                raise InputError(
                    f"{where}: the file declares {kind} in '{name}', a unit that is not known; "
                    "declare energy_unit and length_unit"
                )
            if said is not None:
                if labels.energy_unit is not None and not np.isclose(said, factor, rtol=1e-3):
                    raise InputError(
                        f"{where}: the file declares {kind} in '{name}', but energy_unit="
                        f"'{labels.energy_unit}' and length_unit='{labels.length_unit or 'Ang'}' "
                        "were given"
                    )
                factor = said
        composite[kind] = factor
    return Scales(energy, length, composite["forces"], composite["stress"])


def _scale(
    kind: str,
    given: str | None,
    declared: Mapping[str, str],
    known: Mapping[str, float],
    where: str,
) -> float | None:
    said = declared.get(kind)
    factor = _aliases(known).get(_plain(said)) if said is not None else None
    if given is not None:
        if factor is not None and not np.isclose(factor, known[given], rtol=1e-3):
            raise InputError(
                f"{where}: the file declares {kind} in '{said}', but {kind}_unit='{given}' was "
                "given"
            )
        return known[given]
    if said is not None and factor is None:
        raise InputError(
            f"{where}: the file declares {kind} in '{said}', a unit that is not known; declare "
            f"{kind}_unit, one of {', '.join(known)}"
        )
    return factor


def _plain(unit: str) -> str:
    unit = unit.strip().casefold().replace("å", "a").replace(" ", "").replace("**", "^")
    return re.sub(r"\b(angstrom|ang)s?\b", "a", unit)


def _aliases(known: Mapping[str, float]) -> dict[str, float]:
    plain = {_plain(name): factor for name, factor in known.items()}
    return plain | {
        alias: plain[name]
        for alias, name in (("ha", "hartree"), ("rydberg", "ry"), ("a0", "bohr"))
        if name in plain
    }


def _composite(name: str, power: int) -> float | None:
    """eV/Å of one "kcal/mol/Ang", eV/Å³ of one "eV/A^3"; None where it is neither."""
    energy, slash, length = _plain(name).rpartition("/")
    if power == 3:
        length = length.removesuffix("3").removesuffix("^")
    energy_factor = _aliases(ENERGY_IN_EV).get(energy)
    length_factor = _aliases(LENGTH_IN_ANGSTROM).get(length)
    if not slash or energy_factor is None or length_factor is None:
        return None
    return energy_factor / length_factor**power
