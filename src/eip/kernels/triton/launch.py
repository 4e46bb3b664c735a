"""How Triton's kernels are started: sizes of programs, and what to do where they cannot be."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from eip.kernels.build import KernelWarning
from eip.kernels.operators import NotToBeHad
from eip.kernels.triton.sources import text

#: Threads of a program: numbers of a block, each of a channel of one edge, one for each thread.
#: A thread holds some 200 numbers on its way; with more than one each it had to put some away.
_WARPS = 4
_THREADS = 32 * _WARPS
#: What kernels are compiled with: a product and a sum may become one operation, as in the C++.
OPTIONS = {"num_warps": _WARPS, "enable_fp_fusion": True}
#: Edges at a time in the interpreter, whose price is by operations, not by numbers.
_INTERPRETED_THREADS = 4096

_DTYPES = (torch.float32, torch.float64)


# Whether they can be ----------------------------------------------------------------------------


def works_on(array: Tensor, *others: Tensor | None) -> bool:
    """Whether Triton's kernels can work on arrays, of one type; a warning says, once, why not."""
    kind = array.dtype
    same = all(one is None or one.dtype == kind for one in others)
    return same and kind in _DTYPES and not _FAILURES and _usable(array.device.type)


@functools.cache
def _usable(device: str) -> bool:
    reason = why_not(device)
    if reason is not None:
        _warn(reason)
    return reason is None


@functools.cache
def why_not(device: str) -> str | None:
    """Why Triton's kernels cannot run on a type of device; None: they can. A small one is tried."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'eip[gpu]')"
    if device == "cpu":
        return _interpreter_trouble()
    try:
        with _disable_current_modes():  # a trace asks too
            probe = torch.zeros(1, device=device)
            text.probe()[(1,)](probe)
            # Only here does the host wait for the card.
            return None if float(probe) == 2.0 else "a kernel of one number gave another one"
    except Exception as error:  # whatever compiler, driver and card may say
        return _in_short(error)


def _interpreter_trouble() -> str | None:
    """Of arrays of the CPU; Triton decides by its environment, when a kernel is made."""
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return "on arrays of the CPU Triton's kernels run with TRITON_INTERPRET=1 alone"


def _in_short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _warn(reason: str) -> None:
    warnings.warn(
        f"eIP's GPU kernels cannot be used, plain PyTorch does the work, several times slower: "
        f"{reason}",
        KernelWarning,
        stacklevel=2,
    )


#: What went wrong where a kernel was to be compiled; one is enough.
_FAILURES: list[str] = []


def interpreted() -> bool:
    """Whether kernels run by the interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


# Starting them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """Channels of a program, edges that it takes at a time, and programs side by side."""

    channels: int
    edges: int
    count: int


def blocks(channels: int) -> Blocks:
    """For a width."""
    wide = min(64, 1 << max(4, (channels - 1).bit_length()))
    return Blocks(wide, rows_at_once(wide), -(-channels // wide))


def rows_at_once(wide: int) -> int:
    """Of a program that is so wide."""
    return (_INTERPRETED_THREADS if interpreted() else _THREADS) // wide


def launch(kernel: Any, programs: int, wide: Blocks, *arguments: Any, **constants: Any) -> None:
    """Starts a kernel with so many programs for each block of channels."""
    sizes = {"BE": wide.edges, "BF": wide.channels}
    _start(kernel, (programs, wide.count), arguments, sizes | constants)


def launch_flat(kernel: Any, numbers: int, *arguments: Any, **constants: Any) -> None:
    """Starts a kernel with a thread for each number."""
    block = _INTERPRETED_THREADS if interpreted() else _THREADS
    _start(kernel, (-(-numbers // block),), arguments, {"BLOCK": block} | constants)


def launch_each(
    kernel: Any, programs: int, wide: Blocks, *arguments: Any, **constants: Any
) -> None:
    """Starts a kernel whose programs go through the blocks of channels themselves."""
    sizes = {"BE": wide.edges, "BF": wide.channels}
    _start(kernel, (programs,), arguments, sizes | constants)


def launch_atoms(kernel: Any, atoms: int, *arguments: Any, **constants: Any) -> None:
    """Starts a kernel whose programs have several atoms and take some of what each has, edges
    say, at a time."""
    edges = 64 if interpreted() else 16
    sizes = {"BA": rows_at_once(edges), "BE": edges}
    _start(kernel, (-(-atoms // sizes["BA"]),), arguments, sizes | constants)


def _start(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    if 0 in grid:
        return
    array = arguments[0]
    # Triton starts kernels on the current card, which need not be the array's.
    card: AbstractContextManager[Any] = (
        torch.cuda.device(array.device) if array.is_cuda else nullcontext()
    )
    with card:
        if interpreted():
            kernel[grid](*arguments, **constants)
            return
        try:
            kernel[grid](*arguments, **OPTIONS, **constants)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of another compiler than was tried, for another card
            _FAILURES.append(_in_short(error))
            _warn(_FAILURES[-1])
            raise NotToBeHad from error
