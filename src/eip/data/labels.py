"""Under which names and in which units a file holds its labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from eip.errors import InputError, did_you_mean
from eip.units import UNITS, unit_factor

_PREFIXES = ("", "ref_", "dft_")
#: Names that are tried where the user names none, in any case: Energy, REF_energy.
COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "energy": (*(f"{p}energy" for p in _PREFIXES), "energy_dft", "total_energy"),
    "forces": (
        *(f"{p}{name}" for p in _PREFIXES for name in ("forces", "force")),
        "forces_dft",
        "atomic_forces",  # ISO17
    ),
    "stress": tuple(f"{p}stress" for p in _PREFIXES),
    "virial": tuple(f"{p}{name}" for p in _PREFIXES for name in ("virial", "virials")),
}
#: Under which names, in any case, files say in which unit they are.
UNIT_NAMES: dict[str, tuple[str, ...]] = {
    "energy": ("energy_unit", "energy_units", "energies_unit", "e_unit", "unit_energy"),
    "length": (
        *("length_unit", "length_units", "r_unit", "positions_unit", "position_unit"),
        *("positions_units", "pos_unit", "cell_unit", "distance_unit", "unit_length"),
    ),
    "forces": ("forces_unit", "force_unit", "forces_units", "force_units", "f_unit"),
    "stress": ("stress_unit", "stress_units"),
    "virial": ("virial_unit", "virial_units", "virials_unit"),
}
#: Under which names files say what material a frame is of.
GROUP_NAMES: tuple[str, ...] = ("material_id", "mp_id", "mptrj_traj_id")
#: The group key that makes of each file a group.
BY_FILE = "file"
#: What a lone atom whose energy is E0 says it is, under "config_type" (MACE).
ISOLATED_NAMES, ISOLATED = ("config_type",), ("isolatedatom", "isolatedatoms")
#: Whose sign a stress has: ASE's, (1/V) ∂E/∂ε, or VASP's, the other one.
STRESS_SIGNS: tuple[str, ...] = ("ase", "vasp")


@dataclass(frozen=True)
class Labels:
    """The keys of the labels in a file, the units of the file, and what else must be known of it.

    A key that is None is looked for under the common names, in any case (energy, forces, stress,
    the same with REF_ or DFT_ before them; what ASE's calculators call them). One that is given
    must be in the first frame of each file. A key with "virial" in its name is converted,
    stress = −virial/V.

    A unit that is None is what the file itself declares (``energy_unit``, ``forces_unit``,
    ``stress_unit``, ``e_unit``, ``r_unit``, SchNetPack's metadata), else eV and Å; that of forces
    is else energy/length, and that of stress energy/length³. Where energies are in Hartree or Ry
    and lengths are not in Bohr that is anybody's guess, so forces and stress must have their own.

    ``stress_sign`` is "ase", (1/V) ∂E/∂ε, or "vasp", the other one. ``group`` is the key of what
    frames share that must not be split, "file" for the file itself; if it is None, the names that
    files have for a material's id are looked for. ``elements`` are those of LAMMPS' types 1, 2, ….
    Lone atoms with ``config_type=IsolatedAtom`` give the energies of elements, and are frames
    like others only where ``keep_isolated_atoms`` says so. Output of a calculation whose SCF did
    not converge is an error, or left out with a warning where ``skip_unconverged`` says so.

    Raises:
        InputError: on an unknown unit, sign or element.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    group: str | None = None
    forces_unit: str | None = None
    stress_unit: str | None = None
    stress_sign: str | None = None
    elements: tuple[str, ...] | None = None
    keep_isolated_atoms: bool = False
    skip_unconverged: bool = False

    def __post_init__(self) -> None:
        for kind, known in UNITS.items():
            unit = getattr(self, f"{kind}_unit")
            if unit is not None and unit_factor(kind, unit) is None:
                raise InputError(f"unknown {kind}_unit '{unit}': {did_you_mean(unit, known)}")
        if self.stress_sign not in (None, *STRESS_SIGNS):
            hint = did_you_mean(str(self.stress_sign), STRESS_SIGNS)
            raise InputError(f"unknown stress_sign '{self.stress_sign}': {hint}")
        if self.elements is not None:
            # Not at the top: what is only told keys and units needs no table of elements.
            from ase.data import atomic_numbers

            object.__setattr__(self, "elements", tuple(self.elements))
            for symbol in self.elements:
                if not atomic_numbers.get(symbol):
                    hint = did_you_mean(symbol, list(atomic_numbers)[1:])
                    raise InputError(f"elements: '{symbol}' is no chemical symbol, {hint}")

    def given(self) -> dict[str, Any]:
        """What is not as it is by default; of the same things, it is always the same."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    def fingerprint(self) -> dict[str, Any]:
        """What `store.fingerprint` is made of: the first six always, as earlier versions did."""
        always = ("energy", "forces", "stress", "energy_unit", "length_unit", "group")
        return {name: getattr(self, name) for name in always} | self.given()

    def candidates(
        self, names: Iterable[str], *, extra: Mapping[str, tuple[str, ...]] | None = None
    ) -> dict[str, tuple[str, ...]]:
        """Under which of these names each of energy, forces, stress, virial may be, best first."""
        found: dict[str, tuple[str, ...]] = {}
        names = list(names)
        folded = [(name.casefold(), name) for name in names]
        for label, common in COMMON_NAMES.items():
            given = getattr(self, "stress" if label == "virial" else label)
            if given is not None:
                is_virial = "virial" in given.casefold()
                fits = label not in ("stress", "virial") or is_virial == (label == "virial")
                if fits and given in names:
                    found[label] = (given,)
                continue
            held = [name for key in common for fold, name in folded if fold == key]
            held += [n for n in (extra or {}).get(label, ()) if n in names and n not in held]
            if held:
                found[label] = tuple(held)
        return found

    def choose(
        self,
        held: Mapping[str, Any],
        where: str,
        candidates: Mapping[str, tuple[str, ...]] | None = None,
    ) -> dict[str, str]:
        """The key of each label that ``held`` has: energy, forces, stress and (or) virial.

        Raises:
            InputError: if a label is there twice, and not the same.
        """
        keys = {}
        for label, names in (self.candidates(held) if candidates is None else candidates).items():
            for other in names[1:]:
                if not _same(held[names[0]], held[other]):
                    raise InputError(
                        f"{where}: {label} is there both as '{names[0]}' and as '{other}', and "
                        f"they differ; name the one to read, {label}='{other}' say"
                    )
            keys[label] = names[0]
        return keys

    def find_group(self, held: Mapping[str, Any], where: str) -> str | None:
        """The group of a frame that holds these values; None if it says nothing of one.

        Raises:
            InputError: if what is there is no single word or number.
        """
        if self.group == BY_FILE:
            return where.rpartition("#")[0]
        keys = GROUP_NAMES if self.group is None else (self.group,)
        folded = {key.casefold(): key for key in held}
        key = next((folded[name.casefold()] for name in keys if name.casefold() in folded), None)
        if key is None:
            return None
        value = np.asarray(held[key])
        if value.size != 1 or value.dtype.hasobject or not _is_one(str(value.item())):
            raise InputError(
                f"{where}: '{key}' groups frames, so it should be one word or number, got "
                f"{str(held[key])[:60]}"
            )
        return str(value.item())

    def is_isolated(self, held: Mapping[str, Any]) -> bool:
        """Whether a frame that holds these values is a lone atom whose energy is its E0."""
        if self.keep_isolated_atoms:
            return False
        return any(
            isinstance(value, str)
            and key.casefold() in ISOLATED_NAMES
            and re.sub(r"[ _-]", "", value.casefold()) in ISOLATED
            for key, value in held.items()
        )

    def demand(self, held: Iterable[str], where: str) -> None:
        """Raises an InputError if a key that was given is not among ``held``."""
        held = sorted(set(held))
        for label in ("energy", "forces", "stress"):
            key = getattr(self, label)
            if key is not None and key not in held:
                hint = did_you_mean(key, held) if held else "it holds no labels at all"
                raise InputError(f"{where} has no '{key}' to read {label} from: {hint}")


def stress_matrix(value: Any) -> Any:
    """A stress of 6 numbers (xx, yy, zz, yz, xz, xy) as a matrix; anything else as it is."""
    if np.size(value) == 6:
        return voigt_6_to_full_3x3_stress(np.ravel(value))
    return value


def _is_one(text: str) -> bool:
    """Whether a text is there and not a list of numbers."""
    words = text.split()
    try:
        return len(words) == 1 or (len(words) > 1 and not list(map(float, words)))
    except ValueError:
        return True


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):  # shapes of arrays on disk: unread
        return False
    try:
        one, other = np.ravel(stress_matrix(one)), np.ravel(stress_matrix(other))
        return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9))
    except (TypeError, ValueError):
        return False


def declared_units(held: Mapping[str, Any]) -> dict[str, str]:
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
    own = {kind: _factor(kind, getattr(labels, f"{kind}_unit"), declared, where) for kind in UNITS}
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
            factors[kind] = _ask(kind, labels.energy_unit or declared["energy"], power)
        else:
            factors[kind] = energy / length**power
    sign = -1.0 if labels.stress_sign == "vasp" else 1.0
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
