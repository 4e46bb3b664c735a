"""`eip info`: what is in a model or in files of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from eip.composition import OpenEnergies, in_order
from eip.data import DataSummary, Labels, open_frames, read_structures, summarize
from eip.data.plausibility import find_doubts
from eip.model_file import read_model_info
from eip.models.short_range import ShortRangeSettings
from eip.uncertainty.registry import inside
from eip.verbs.messages import CALIBRATE_GIVES, TRAINING_GIVES, sentence


def info(path: str | Path, labels: Labels | Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is in a model file (`describe_model`) or in a file of frames, for a person or as JSON.

    Args:
        path: of a file, or of a run folder with a model.eip.

    Raises:
        InputError: if it can be read as neither.
    """
    path = model_in(path)
    if is_model(path):
        return describe_model(path)
    labels = None if labels is None else Labels.of(labels, "labels")
    summary, doubts = summarize_files([path], labels)
    return {**summary.to_dict(), "doubts": doubts}


def model_in(path: str | Path) -> Path:
    """The model of a run folder; any other path as it is."""
    model = Path(path) / "model.eip"
    return model if model.is_file() else Path(path)


def is_model(path: str | Path) -> bool:
    """Whether a file is a model by its name or by its first bytes (safetensors)."""
    path = Path(path)
    if path.suffix == ".eip":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    # A header's length, then the header, which is JSON.
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 10**8


def summarize_files(
    paths: Sequence[str | Path], labels: Labels | None = None
) -> tuple[DataSummary, list[str]]:
    """Elements, sizes, labels and ranges of files of frames, and what looks wrong in them."""
    store = open_frames(paths, labels)
    doubts = find_doubts({"frames": (store, None)})
    missing = [label for label in ("energy", "forces") if not store.has(label).any()]
    if missing and (names := _other_names(paths[0])):
        options = " and ".join(f"--{label}-key" for label in missing)
        doubts.append(
            f"no {' and no '.join(missing)} under the usual names; the first frame also has "
            f"{', '.join(names)}: name the right one by {options} (data.labels in a configuration)"
        )
    return summarize(store), doubts


def _other_names(path: str | Path) -> list[str]:
    """What the first frame has beside its geometry and labels that were found."""
    _, atoms = next(iter(read_structures(path, index=0)))
    return [*map(str, atoms.info), *(key for key in atoms.arrays if key not in _GEOMETRY)]


_GEOMETRY = ("numbers", "positions")


def describe_model(path: str | Path) -> dict[str, Any]:
    """What a model file says of itself, for a person or as JSON.

    Raises:
        InputError: if it is no readable model file.
    """
    header = read_model_info(path)
    potential, calibration = header["potential"], None
    kinds: list[str] = []
    around: dict[str, Any] = {}
    guard: dict[str, Any] | None = None
    groups: list[OpenEnergies] = []
    energy_error = ""
    while potentials := inside(potential):
        settings = dict(potential["settings"])
        match potential["kind"]:
            case "calibrated":
                calibration = settings.pop("calibration", None)
            case "energy_error":
                groups = [OpenEnergies.from_dict(group) for group in settings.pop("open_groups")]
                energy_error = _error_bar(groups, settings.pop("open_scales"))
                settings = {}
            case kind:
                kinds.append(kind)
        if settings.pop("potentials", None):
            around["members"] = len(potentials)
        settings.pop("potential", None)
        guard = settings.pop("guard", None) or guard
        around |= settings
        potential = potentials[0]
    kinds.append(potential["kind"])
    settings, info = dict(potential["settings"]), header["info"]
    plain = info.get("config", {}).get("model", {}).get("uncertainty") == "none"
    energies = settings.pop("element_energies", {})
    short_range, zbl = settings.pop("short_range", None), settings.pop("zbl", False)
    elements = [chemical_symbols[z] for z in settings.pop("elements", [])]
    attached = potential["kind"] == "attached"
    backbone = settings.get("backbone")
    if isinstance(backbone, dict) and backbone.pop("architecture", None) is not None:
        backbone["weights are"] = "in this file, fine-tuned"
    out: dict[str, Any] = {
        "kind": " of ".join(kinds),
        "elements": elements,
        _ADDED if attached else "element energies (eV)": {
            chemical_symbols[int(z)]: e for z, e in energies.items()
        },
        "note": sentence(groups)
        if groups
        else _UNDETERMINED
        if _undetermined(energies) and not attached
        else "",
        "units": "eV, Å, eV/Å, eV/Å³",
        "repulsion below": "" if attached else _repulsion(short_range, zbl),
        "network": {**settings, "dtype": header["dtype"]},
        "uncertainty": around,
        "guard": "" if plain else _guard_text(guard, kinds),
        "energy error bar": energy_error
        or ("" if plain or attached or "members" in around else _NO_ERROR_BAR),
        "calibration": "" if plain else "none: σ ranks atoms, its size means little",
        "training": info.get("training", {}),
        "training data": info.get("data", {}),
        f"measured on {info.get('measured_on', 'other')} frames": {
            k: v for k, v in info.get("metrics", {}).items() if not k.endswith("_ood")
        },
        "written by": header["written_by"],
        "format": header["format"],
    }
    if calibration is not None:
        out["calibration"] = {
            "method": calibration["method"],
            "factor": calibration["factor"],
            "element factors": {
                chemical_symbols[int(z)]: c for z, c in calibration["element_factors"].items()
            },
            "frames": calibration["n_frames"],
            "created": calibration["created"],
        }
    return {key: value for key, value in out.items() if value}


_ADDED = "added to the network's energies (eV)"


def _repulsion(short_range: Mapping[str, Any] | None, zbl: bool) -> str:
    """At which distances a model has a repulsion of nuclei, in its own way or in that of before."""
    before = "the cutoff, of ZBL as in model files of before"
    if short_range is None:
        return before if zbl else _NO_REPULSION
    of_training = str(ShortRangeSettings.from_dict(short_range))
    return f"{of_training}; {before}" if zbl else of_training


_NO_REPULSION = (
    "no distance of atoms: closer than in training the network alone is asked; eip calibrate "
    "--trained-on FRAMES gives a model the repulsion of nuclei there"
)


_NO_ERROR_BAR = "none: eip calibrate FRAMES --trained-on FRAMES gives one"


def _error_bar(groups: Sequence[OpenEnergies], sizes: Sequence[float]) -> str:
    """What of the energy's error bar a person wants to know."""
    text = "calibrated on validation frames"
    for group, size in zip(groups, sizes, strict=True):
        names = ", ".join(in_order(chemical_symbols[z] for z in group.numbers))
        text += f"; {size:.3g} eV an atom where it is open how energy is shared among {names}"
    return text


def _guard_text(guard: Mapping[str, Any] | None, kinds: Sequence[str]) -> dict[str, Any] | str:
    """Of σ beyond the range of what was seen."""
    if guard is None:
        how = CALIBRATE_GIVES if "latent_distance" in kinds else TRAINING_GIVES
        return f"none: far from the data σ is not to be relied on; {how}"
    edges = {
        chemical_symbols[int(z)]: f"d {of['d']:.3g}, D {of['D']:.3g}"
        for z, of in guard["elements"].items()
    }
    return {
        "strength": guard["strength"],
        "held-out atoms": guard["n_atoms"],
        "edges": edges,
    }


_UNDETERMINED = (
    "the training frames are of one composition, which does not tell the elements' energies apart: "
    "each is the mean energy of an atom, and energies of other compositions mean little; "
    "data.element_energies gives better ones"
)


def _undetermined(energies: Mapping[str, float]) -> bool:
    """Whether all elements have one energy, as where frames do not tell them apart."""
    values = list(energies.values())
    return len(values) > 1 and max(values) - min(values) < 1e-6 * abs(max(values, key=abs))
