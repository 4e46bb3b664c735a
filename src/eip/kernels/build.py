"""Compiles the C++ kernels once for this machine and loads them.

The binary is made for the very processor it runs on and kept in the user's cache; its name holds a
digest of source, compiler, flags and processor, so that a home directory shared by a cluster's
different nodes holds one for each. Where there is no compiler, the plain PyTorch path does the
work, and a warning says so once.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    # Neither sets errno nor traps; NaN and infinity keep their meaning, unlike under -ffast-math.
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


class Library:
    """The compiled kernels; see the C++ files beside this one for what each does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._functions = ctypes.CDLL(str(path))

    @functools.cache  # noqa: B019 (a library lives as long as the process)
    def function(
        self, name: str, dtype: torch.dtype | None = None, result: bool = False
    ) -> Callable[..., int]:
        """``eip_{name}``, of a dtype where there are two; the caller passes ctypes values."""
        suffix = "" if dtype is None else f"_{_SUFFIX[dtype]}"
        function = getattr(self._functions, f"eip_{name}{suffix}")
        function.restype = ctypes.c_int64 if result else None
        return function

    @functools.cache  # noqa: B019
    def chunk(self, channels: int, dtype: torch.dtype) -> int:
        """Channels that a kernel takes at a time; 0: the width is none it can do."""
        if dtype not in _SUFFIX:
            return 0
        return int(self.function("chunk", dtype, result=True)(ctypes.c_int64(channels)))


_REFERENCE = ContextVar("reference_path", default=False)


@contextmanager
def reference_path() -> Iterator[None]:
    """Within it everything runs in plain PyTorch: what the kernels are checked against."""
    token = _REFERENCE.set(True)
    try:
        yield
    finally:
        _REFERENCE.reset(token)


def kernels_for(array: Tensor) -> Library | None:
    """The kernels, if they can work on this array and are wanted."""
    if _REFERENCE.get() or array.device.type != "cpu" or array.dtype not in _SUFFIX:
        return None
    return library()


@functools.cache
def library() -> Library | None:
    """The kernels, compiled if need be; None, with a warning, where that cannot be done."""
    try:
        return Library(_compiled())
    except _CannotCompile as error:
        warnings.warn(
            f"eIP runs without its compiled kernels, many times slower: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


class _CannotCompile(Exception):
    pass


def pointer(array: Tensor | None) -> ctypes.c_void_p:
    """Address of an array's first element; the caller keeps the array alive and contiguous."""
    return ctypes.c_void_p(None if array is None else array.data_ptr())


def advise_huge_pages(array: Tensor) -> None:
    """Asks the system for large pages where there are any: mapping small ones takes longer than
    the sums that a large array is for."""
    size = 2**21
    start = -(-array.data_ptr() // size) * size
    length = (array.data_ptr() + array.nbytes - start) // size * size
    madvise = getattr(_c_library(), "madvise", None)
    if length > 0 and madvise is not None and hasattr(mmap, "MADV_HUGEPAGE"):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _compiled() -> Path:
    folder = Path(__file__).parent
    sources = sorted(folder.glob("*.h")) + sorted(folder.glob("*.cpp"))
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    digest = hashlib.sha256()
    for part in (version, " ".join(_FLAGS), _processor(), *(s.read_text() for s in sources)):
        digest.update(part.encode())
    target = _cache() / f"eip-{digest.hexdigest()[:16]}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".so")
    except OSError as error:
        raise _CannotCompile(f"{target.parent} cannot be written to ({error})") from error
    os.close(handle)
    try:
        command = [compiler, *_FLAGS, "-o", temporary, *(str(s) for s in folder.glob("*.cpp"))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise _CannotCompile(f"{' '.join(command)}\nended with\n{done.stderr[-2000:]}")
        # Renamed, not written in place: another process may be compiling or loading it too.
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _compiler() -> str:
    chosen = os.environ.get("CXX")
    for name in [chosen] if chosen else ["c++", "g++", "clang++"]:
        found = shutil.which(name)
        if found:
            return found
    raise _CannotCompile(
        f"no C++ compiler was found ({f'CXX is {chosen}' if chosen else 'looked for g++, clang++'})"
    )


def _cache() -> Path:
    chosen = os.environ.get("EIP_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "eip"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eip"


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
