"""MPtrj's JSON, ``MPtrj_2022.9_full.json``: one material after the other, never all at once.

Its layout (Deng et al., Nat. Mach. Intell. 5, 1031 (2023); figshare article 23713842)::

    {material id: {frame id: {"structure": pymatgen's dictionary of a Structure,
                              "uncorrected_total_energy", "corrected_total_energy": eV,
                              "energy_per_atom": eV, corrected, "force": eV/Å,
                              "stress": kBar, VASP's sign, "magmom": μB, …}}}

The energy that is read where no key is given is the uncorrected one: it is what VASP's forces and
stress are derivatives of, and what the extended XYZ copies of the data set hold. The corrected one
(MP2020) differs by a constant of the composition, which makes GGA and GGA+U comparable.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import ijson
import numpy as np
from ase import units as ase_units
from ase.data import atomic_numbers

from eip.data.frame import LABELS, Frame
from eip.data.labels import GROUP_NAMES, Labels
from eip.data.raw import make_frame
from eip.data.scales import scales
from eip.errors import InputError, did_you_mean

#: eV/Å³ of VASP's kBar: VASP counts a compressed crystal's stress positive, eIP (as ASE) its
#: (1/V) ∂E/∂ε, which is negative.
STRESS_IN_EV_A3 = -0.1 * ase_units.GPa
_DECLARED = {"energy": "eV", "length": "Ang", "forces": "eV/Ang", "stress": "kbar"}
_ENERGIES = ("uncorrected_total_energy", "corrected_total_energy", "energy_per_atom")
_FRAME_KEYS = frozenset(
    (*_ENERGIES, "structure", "force", "stress", "magmom", "bandgap", "mp_id")
    + ("ef_per_atom", "e_per_atom_relaxed", "ef_per_atom_relaxed")
)
_SNIFFED_EVENTS = 8


def is_mptrj(path: Path) -> bool:
    """Whether a file is JSON of MPtrj's layout, by its first keys."""
    try:
        with _open(path) as file:
            events = itertools.islice(ijson.basic_parse(file), _SNIFFED_EVENTS)
            depth = 0
            for event, value in events:
                depth += event == "start_map"
                if depth == 3 and event == "map_key":
                    return value in _FRAME_KEYS
                if event not in ("start_map", "map_key"):
                    return False
    except (ijson.JSONError, OSError, EOFError):
        pass
    return False


def read_mptrj(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    """Frames in the order of the file; each frame's group is its material's id.

    Raises:
        InputError: if the file is damaged, a site is shared by several elements, a key is not one
            of MPtrj's, or the user declares units other than eV and Å.
    """
    keys = {
        "energy": _key("energy", labels.energy, _ENERGIES),
        "forces": _key("forces", labels.forces, ("force",)),
        "stress": _key("stress", labels.stress, ("stress",)),
    }
    scales(labels, _DECLARED, str(path))
    if any(bound is not None and bound < 0 for bound in (wanted.start, wanted.stop)):
        wanted = slice(*wanted.indices(sum(1 for _ in _raw_frames(path))))
    frames = itertools.islice(enumerate(_raw_frames(path)), wanted.start, wanted.stop, wanted.step)
    for number, (material, frame) in frames:
        yield _frame(frame, material, keys, labels, f"{path}#{number}")


def _key(label: str, given: str | None, known: tuple[str, ...]) -> str:
    if given is not None and given not in known:
        raise InputError(
            f"MPtrj has no '{given}' to read {label} from: {did_you_mean(given, known)}"
        )
    return given or known[0]


def _open(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(path, "rb") if compressed else path.open("rb")


def _raw_frames(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(material id, frame as it is written); memory holds the frames of one material."""
    number = 0
    with _open(path) as file:
        materials = ijson.kvitems(file, "", use_float=True)
        while True:
            try:
                material, frames = next(materials)
            except StopIteration:
                return
            except (ijson.JSONError, OSError, EOFError, UnicodeDecodeError) as error:
                raise InputError(
                    f"{path} is damaged or cut off behind frame {number - 1}: {error}"
                    if number
                    else f"{path} cannot be read as JSON: {error}"
                ) from error
            if not isinstance(frames, Mapping):
                raise InputError(
                    f"{path}: '{material}' should hold frames by their ids, got "
                    f"{type(frames).__name__}"
                )
            for frame in frames.values():
                yield material, frame
                number += 1


def _frame(
    frame: dict[str, Any], material: str, keys: Mapping[str, str], labels: Labels, source: str
) -> Frame:
    try:
        structure = frame["structure"]
        cell = np.array(structure["lattice"]["matrix"], dtype=np.float64)
        pbc = structure["lattice"].get("pbc", (True, True, True))
        sites = structure["sites"]
        numbers = np.array([_number(site["species"]) for site in sites], dtype=np.int64)
        if all("xyz" in site for site in sites):
            positions = np.array([site["xyz"] for site in sites], dtype=np.float64)
        else:
            positions = np.array([site["abc"] for site in sites], dtype=np.float64) @ cell
        values = {
            label: (key, frame[key])
            for label in LABELS
            if (key := keys[label]) in frame and frame[key] is not None
        }
    except InputError as error:
        raise InputError(f"{source} ({material}): {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{source} ({material}) is not a frame of MPtrj: {type(error).__name__}: {error}"
        ) from error
    if keys["energy"] == "energy_per_atom" and "energy" in values:
        key, energy = values["energy"]
        values["energy"] = (key, energy * len(numbers))
    if "stress" in values:
        values["stress"] = ("stress", np.array(values["stress"][1]) * STRESS_IN_EV_A3)
    return make_frame(
        numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=np.array(pbc),
        values=values,
        scale=scales(Labels(), {}, source),
        source=source,
        group=labels.find_group(frame | dict.fromkeys(GROUP_NAMES, material), source),
    )


def _number(species: list[dict[str, Any]]) -> int:
    if len(species) != 1 or species[0].get("occu", 1) != 1:
        raise InputError(f"a site is shared or half empty: {species}")
    symbol = species[0]["element"]
    if symbol not in atomic_numbers:
        raise InputError(f"'{symbol}' is no element")
    return int(atomic_numbers[symbol])
