"""`eip info --device`: what will run where on this machine, and why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from typing import Any

import torch

from eip.kernels import KernelWarning, cartesian, library, painn, variant
from eip.kernels.operators import implementations
from eip.kernels.triton.launch import why_not

#: Whose operators there are by then.
NETWORKS = cartesian, painn


def describe_device() -> dict[str, Any]:
    """For a person or as JSON: devices, and by what the potential's operators run on each.

    Compiles the kernels of the CPU if need be, and on a GPU a small one by Triton.

    Raises:
        InputError: if EIP_KERNELS is none of those there are.
    """
    asked = variant()
    found, reason = _gpu()
    return {
        "runs by default on": "cuda" if found else "cpu",
        "GPU": found or f"none: {reason}",
        "PyTorch": f"{torch.__version__}, {_build()}",
        "Triton": _version("triton") or "not installed",
        "EIP_KERNELS": asked,
        "kernels on the CPU": _on_cpu(asked),
        "kernels on a GPU": _on_gpu(asked, bool(found)),
        "operators": _operators(),
    }


def _gpu() -> tuple[list[str], str]:
    """Cards, and why there is none."""
    if torch.cuda.is_available():
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards], ""
    if torch.version.cuda is None and torch.version.hip is None:
        return [], "this PyTorch was built without CUDA and ROCm"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return [], str(error).splitlines()[0][:200]
    return [], "PyTorch finds no card"


def _build() -> str:
    if torch.version.cuda is not None:
        return f"built for CUDA {torch.version.cuda}"
    if torch.version.hip is not None:
        return f"built for ROCm {torch.version.hip}"
    return "built for CPUs alone"


def _version(package: str) -> str | None:
    """Without importing it."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "there"


def _on_cpu(asked: str) -> str:
    if asked == "reference":
        return "none, plain PyTorch: EIP_KERNELS asks for it"
    if asked == "triton":
        reason = why_not("cpu")
        return "Triton's, by its interpreter" if reason is None else f"none: {reason}"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lib = library()
    if lib is not None:
        return f"compiled, {lib.path}"
    told = [str(one.message) for one in said if issubclass(one.category, KernelWarning)]
    return f"none, plain PyTorch: {' '.join(told) or 'they could not be compiled'}"


def _on_gpu(asked: str, there: bool) -> str:
    if asked == "reference":
        return "none, plain PyTorch: EIP_KERNELS asks for it"
    if not there:
        return "there is no GPU"
    reason = why_not("cuda")
    return "Triton's" if reason is None else f"none, plain PyTorch: {reason}"


def _operators() -> dict[str, str]:
    """By what each can run; whichever has no kernel somewhere is plain PyTorch there."""
    words = {"cpu": "C++ on a CPU", "cuda": "Triton on a GPU"}
    return {
        name: ", ".join(words.get(device, device) for device in devices)
        for name, devices in implementations().items()
    }
