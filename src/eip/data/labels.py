"""Under which names and in which units a file holds its labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from eip.errors import InputError, did_you_mean
from eip.settings import Settings
from eip.settings.values import EnergyUnit, ForcesUnit, LengthUnit, StressUnit, Symbols

# The command line makes its options of what is here, so NumPy is imported on first need.

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
#: What files say that eIP writes: read under the units of another source, they are refused.
OWN_UNITS = {
    "energy_unit": "eV",
    "length_unit": "Ang",
    "forces_unit": "eV/Ang",
    "stress_unit": "eV/Ang^3",
}
#: Under which names files say what material a frame is of.
GROUP_NAMES: tuple[str, ...] = ("material_id", "mp_id", "mptrj_traj_id")
#: The group key that makes of each file a group.
BY_FILE = "file"
#: What a lone atom whose energy is E0 says it is, under "config_type" (MACE).
ISOLATED_NAMES, ISOLATED = ("config_type",), ("isolatedatom", "isolatedatoms")


class LabelKeys(Settings):
    """Keys of the labels, and their units. An empty key: the usual names are looked for, in any
    case."""

    energy: str | None = Field(None, description="key of the total energy, for example REF_energy")
    forces: str | None = Field(None, description="key of the forces")
    stress: str | None = Field(None, description="key of the stress, or of the virial")
    energy_unit: EnergyUnit | None = Field(
        None,
        description="eV, meV, Hartree, Ry, kcal/mol, kJ/mol; empty: as the file declares, else eV",
    )
    length_unit: LengthUnit | None = Field(
        None, description="Ang, nm, Bohr; empty: as the file declares, else Ang"
    )
    forces_unit: ForcesUnit | None = Field(
        None,
        description="eV/Ang, Hartree/Bohr, kcal/mol/Ang, …; empty: as the file declares, else "
        "energy_unit/length_unit",
    )
    stress_unit: StressUnit | None = Field(
        None,
        description="eV/Ang^3, GPa, kbar, Hartree/Bohr^3, …; empty: as the file declares, else "
        "energy_unit/length_unit^3",
    )
    stress_sign: Literal["ase", "vasp"] | None = Field(
        None, description="ase: (1/V) dE/dε; vasp: the other one; empty: ase"
    )
    elements: Symbols | None = Field(
        None, description="of types 1, 2, … of LAMMPS' files, as [O, H]"
    )
    keep_isolated_atoms: bool = Field(
        False,
        description="lone atoms with config_type=IsolatedAtom are frames like others; else they "
        "give the energies of elements and are no frames",
    )
    skip_unconverged: bool = Field(
        False,
        description="steps of an output whose SCF did not converge are left out, with a warning; "
        "else they are an error",
    )


class Labels(LabelKeys):
    """The keys of the labels in a file, the units of the file, and what else must be known of it.

    A key that is None is looked for under the common names, in any case (energy, forces, stress,
    the same with REF_ or DFT_ before them; what ASE's calculators call them). One that is given
    must be in the first frame of each file. A key with "virial" in its name is converted,
    stress = −virial/V.

    A unit that is None is what the file itself declares (``energy_unit``, ``forces_unit``,
    ``stress_unit``, ``e_unit``, ``r_unit``, SchNetPack's metadata), else eV and Å; that of forces
    is else energy/length, and that of stress energy/length³. Where energies are in Hartree or Ry
    and lengths are not in Bohr that is anybody's guess, so forces and stress must have their own.

    Raises:
        InputError: on an unknown unit, sign or element.
    """

    #: Whether a unit that a file declares counts before these.
    yielding: ClassVar[bool] = False

    group: str | None = Field(
        None,
        description="key of what frames share that must not be split; file for the file itself; "
        "empty: the usual names of a material's id",
    )

    def given(self) -> dict[str, Any]:
        """What is not as it is by default; of the same things, it is always the same."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {k: v for k, v in values.items() if v != type(self).model_fields[k].default}

    def fingerprint(self) -> dict[str, Any]:
        """What `store.cache.fingerprints` are made of: the first six always, as of old."""
        always = ("energy", "forces", "stress", "energy_unit", "length_unit", "group")
        found = {name: getattr(self, name) for name in always} | self.given()
        return found | ({"yielding": True} if self.yielding and self.given() else {})

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
        import numpy as np

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
    import numpy as np

    flat = np.ravel(value)
    return flat.take([[0, 5, 4], [5, 1, 3], [4, 3, 2]]) if flat.size == 6 else value


def _is_one(text: str) -> bool:
    """Whether a text is there and not a list of numbers."""
    words = text.split()
    try:
        return len(words) == 1 or (len(words) > 1 and not list(map(float, words)))
    except ValueError:
        return True


def _same(one: Any, other: Any) -> bool:
    import numpy as np

    if isinstance(one, tuple) or isinstance(other, tuple):  # shapes of arrays on disk: unread
        return False
    try:
        one, other = np.ravel(stress_matrix(one)), np.ravel(stress_matrix(other))
        return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9))
    except (TypeError, ValueError):
        return False


class RememberedLabels(Labels):
    """Those of the data that a model was trained on: a guess for other files, which know better
    where they declare units of their own."""

    yielding: ClassVar[bool] = True
