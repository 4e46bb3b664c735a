"""model.eip: one safetensors file with JSON metadata. Nothing in its reading runs what it holds.

Layout: weights as tensors by name; in the safetensors header, under ``eip``, a JSON object

    format      version of this layout, an integer
    potential   {"kind", "settings"}: what `eip.uncertainty.registry.build_potential` takes;
                elements, E0, force scale and calibration are among the settings
    dtype       floating-point type of the weights
    info        what training left behind: configuration, data summary, metrics, versions
    written_by  versions of eip and torch
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eip._version import __version__
from eip.errors import InputError
from eip.files import json_text, replacing
from eip.potential import Potential
from eip.uncertainty import (  # noqa: F401  (each registers its kind)
    calibration,
    ensemble,
    evidential,
    latent_distance,
    mixture,
    readout_ensemble,
)
from eip.uncertainty.registry import build_potential, describe_potential

FORMAT = 1
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
    metadata = {"eip": json_text(header)}
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata=metadata)


def read_model_info(path: str | Path) -> dict[str, Any]:
    """The header of a model file, without reading the weights.

    Raises:
        InputError: if there is no such file, it is damaged, no eIP model, or from a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("eip")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable model file, or damaged ({error})") from error
    if text is None:
        raise InputError(f"{path}: a safetensors file, but not one that eIP wrote")
    try:
        header = json.loads(text)
        found = header["format"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the model file's header is damaged ({error})") from error
    if not isinstance(found, int) or found > FORMAT:
        raise InputError(
            f"{path}: model format {found} is newer than this eIP reads ({FORMAT}); "
            f"it was written by eIP {header.get('written_by', {}).get('eip', 'unknown')}: upgrade"
        )
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
    except InputError:
        raise
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
    potential.to(device=device, dtype=dtype)
    potential.requires_grad_(False)
    return potential.eval()
