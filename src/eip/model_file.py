"""model.eip: one safetensors file with JSON metadata. Nothing in its reading runs what it holds.

Layout: weights as tensors by name; in the safetensors header, under ``sha256``, a checksum of the
file with zeros in the checksum's place, and under ``eip`` a JSON object

    format      version of this layout, an integer
    potential   {"kind", "settings"}: what `eip.uncertainty.registry.build_potential` takes;
                elements, E0, force scale and calibration are among the settings
    dtype       floating-point type of the weights
    info        what training left behind: configuration, data summary, metrics, versions
    written_by  versions of eip and torch

Format 2, where the keys of the backbone stood beside its name, is read; format 1, which had no
checksum either, is read with a warning.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eip._version import __version__
from eip.errors import InputError
from eip.files import json_text, replacing, warn_unchecked
from eip.potential import Potential
from eip.uncertainty.registry import build_potential, describe_potential

FORMAT = 3
#: From this format on, a file without a checksum is damaged.
_CHECKED_FROM = 2
_NOT_YET = b"0" * 64
# The keys of the header's JSON can stand in any order; within a value its quotes would be escaped.
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save_model(potential: Potential, path: str | Path, info: dict[str, Any] | None = None) -> None:
    """Writes a potential; an existing file is replaced whole or not at all.

    Raises:
        TypeError: if this kind of potential cannot be kept, or ``info`` is not JSON-able.
    """
    header = {
        "format": FORMAT,
        "potential": describe_potential(potential),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "info": info or {},
        "written_by": {"eip": __version__, "torch": torch.__version__},
    }
    # Cloned, because safetensors refuses tensors that share memory.
    weights = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in potential.state_dict().items()
    }
    metadata = {"eip": json_text(header), "sha256": _NOT_YET.decode()}
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata=metadata)
        seal(temporary)


def seal(path: Path) -> None:
    """Puts the checksum into the place that a file has for it."""
    content = path.read_bytes()
    found = _CHECKSUM.search(content, 8, 8 + int.from_bytes(content[:8], "little"))
    if found is None:
        raise ValueError(f"{path} has no place for a checksum")
    with path.open("r+b") as file:
        file.seek(found.start(1))
        file.write(_digest(content, found))


def _digest(content: bytes, place: re.Match[bytes]) -> bytes:
    """As it was when the checksum's place held zeros."""
    parts = (content[: place.start(1)], _NOT_YET, content[place.end(1) :])
    return hashlib.sha256(b"".join(parts)).hexdigest().encode()


def _is_whole(path: Path) -> bool | None:
    """Whether the checksum is that of the file; None: it has none."""
    content = path.read_bytes()
    found = _CHECKSUM.search(content, 8, 8 + int.from_bytes(content[:8], "little"))
    return None if found is None else _digest(content, found) == found[1]


def read_model_info(path: str | Path) -> dict[str, Any]:
    """The header of a model file; the weights are compared with their checksum, no more.

    Raises:
        InputError: if there is no such file, it is damaged, no eIP model, or from a newer version.

    Warns:
        UncheckedFile: if it is of a format that had no checksum.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("eip")
        whole = _is_whole(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable model file, or damaged ({error})") from error
    if whole is False:
        raise InputError(
            f"{path}: the model file is damaged (its checksum is not that of what was written)"
        )
    if text is None:
        raise InputError(f"{path}: a safetensors file, but not one that eIP wrote")
    try:
        header = json.loads(text)
        found = header["format"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the model file's header is damaged ({error})") from error
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(f"{path}: the model file's header is damaged (format {found!r})")
    if found > FORMAT:
        raise InputError(
            f"{path}: model format {found} is newer than this eIP reads ({FORMAT}); "
            f"it was written by eIP {header.get('written_by', {}).get('eip', 'unknown')}: upgrade"
        )
    if whole is None:
        if found >= _CHECKED_FROM:
            raise InputError(f"{path}: the model file is damaged (it lacks its checksum)")
        warn_unchecked(path)
    return dict(header)


def load_model(
    path: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """The potential of a model file, ready to predict, its calibration included.

    Args:
        path: a file that `save_model` wrote.
        device: where to put it; by default a GPU if there is one, else the CPU.
        dtype: by default what it was trained in.

    Raises:
        InputError: as `read_model_info`, and if the weights do not fit the description.
    """
    header = read_model_info(path)
    try:
        description = header["potential"]
        potential = build_potential(description["kind"], description["settings"])
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        potential.to(_DTYPES[header["dtype"]])
        potential.load_state_dict(weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (
        SafetensorError,
        OSError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise InputError(f"{path}: the model file is damaged ({error})") from error
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        potential.to(device=torch.device(device), dtype=dtype)
    except (RuntimeError, AssertionError) as error:  # no such device, or none here
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = str(error).splitlines()[0][:200]
        raise InputError(
            f"device '{device}' cannot be used, expected cpu or cuda: {said}"
        ) from error
    potential.requires_grad_(False)
    return potential.eval()
