"""Whose kernels work on an array: those of its device, or none, which is plain PyTorch.

``EIP_KERNELS`` asks for the kernels of lesser processors, for Triton's on the CPU too, or for none:
see `VARIANTS`.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

from eip.errors import InputError

#: Values of EIP_KERNELS: how the compiler is told of the processor, and what that processor must
#: have (as Linux names it). None: no compiled kernels on the CPU.
VARIANTS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "native": ("-march=native", ()),
    # By the names of processors: those of the levels (x86-64-v4) are unknown to older compilers.
    "avx512": (
        "-march=skylake-avx512",
        tuple(f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")),
    ),
    "avx2": ("-march=haswell", ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")),
    # On the CPU by Triton's interpreter, thousands of times slower: for tests.
    "triton": (None, ()),
    "reference": (None, ()),
}


def variant() -> str:
    """Which kernels are wanted: ``EIP_KERNELS``, by default "native".

    Raises:
        InputError: if it is none of `VARIANTS`, or this processor cannot run it.
    """
    return _demanded(os.environ.get("EIP_KERNELS") or "native", "EIP_KERNELS")


def _demanded(chosen: str, key: str) -> str:
    if chosen not in VARIANTS:
        raise InputError(f"{key} is '{chosen}'; expected one of {', '.join(VARIANTS)}")
    needed = VARIANTS[chosen][1]
    if needed:
        has = set(processor().split())
        missing = [feature for feature in needed if feature not in has]
        if missing:
            raise InputError(
                f"{key} is '{chosen}', but this processor lacks {', '.join(missing)}; leave "
                "it unset, or take 'reference'"
            )
    return chosen


@contextmanager
def using(kernels: str | None, key: str = "kernels") -> Iterator[None]:
    """Within it, a run takes these kernels whatever ``EIP_KERNELS`` asks for; None: as that does.

    By the environment, so that the processes and threads of the run take the same.

    Args:
        key: what a wrong one is called in the error.

    Raises:
        InputError: as `variant`.
    """
    if kernels is None:
        yield
        return
    _demanded(kernels, key)
    before = os.environ.get("EIP_KERNELS")
    os.environ["EIP_KERNELS"] = kernels
    chosen.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ["EIP_KERNELS"]
        else:
            os.environ["EIP_KERNELS"] = before
        chosen.cache_clear()


def runnable() -> tuple[str, ...]:
    """The variants that this processor can run."""
    has = set(processor().split())
    return tuple(name for name, (_, needed) in VARIANTS.items() if has.issuperset(needed))


def processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


#: "reference" or "triton" within one of the two below.
_ASKED: ContextVar[str | None] = ContextVar("kernels_asked", default=None)


@contextmanager
def _asking(kernels: str) -> Iterator[None]:
    token = _ASKED.set(kernels)
    try:
        yield
    finally:
        _ASKED.reset(token)


@contextmanager
def reference_path() -> Iterator[None]:
    """Within it everything runs in plain PyTorch: what the kernels are checked against."""
    with _asking("reference"):
        yield


@contextmanager
def triton_path() -> Iterator[None]:
    """Within it the kernels of a GPU work on arrays of the CPU too, by Triton's interpreter."""
    with _asking("triton"):
        yield


#: `variant`, read once: each operator asks several times a call.
chosen = functools.cache(variant)


def whose_kernels(device: torch.device) -> str | None:
    """The type of device whose kernels work on arrays of a device; None: plain PyTorch does."""
    asked = _ASKED.get() or chosen()
    if asked == "reference":
        return None
    return "cuda" if asked == "triton" else device.type
