"""Compiles the C++ kernels once for this machine and loads them.

The binary is made for the very processor it runs on and kept in the user's cache (`cache`); its
name holds a digest of source, compiler, flags and processor, so that a home directory shared by a
cluster's different nodes holds one for each. Where there is no compiler, the plain PyTorch path
does the work, and a warning says so once.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eip.kernels import cache
from eip.kernels.choice import VARIANTS, chosen, processor, whose_kernels

#: Of a library of kernels, whoever loads it.
FLAGS = (
    *("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared"),
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

    def call(self, name: str, dtype: torch.dtype | None, *arguments: Any) -> None:
        """Calls ``eip_{name}``: a tensor goes as the address of its first element (contiguous; the
        caller keeps it alive), None as no address, numbers as int64 and double."""
        self.function(name, dtype)(*map(_as_c, arguments))

    @functools.cache  # noqa: B019
    def chunk(self, channels: int, dtype: torch.dtype) -> int:
        """Channels that a kernel takes at a time; 0: the width is none it can do."""
        if dtype not in _SUFFIX:
            return 0
        return int(self.function("chunk", dtype, result=True)(ctypes.c_int64(channels)))

    @functools.cache  # noqa: B019
    def lanes(self, dtype: torch.dtype) -> int:
        """Numbers of a type in a vector of the processor: widths are multiples of it."""
        return int(self.function("lanes", dtype, result=True)())

    def handles(self, dtype: torch.dtype) -> bool:
        return dtype in _SUFFIX

    def takes(self, channels: int | torch.SymInt, dtype: torch.dtype) -> bool:
        """Whether kernels can work at a width; warns, once, of one that they cannot."""
        # An integer that is traced becomes one that is known.
        return dtype in _SUFFIX and self._takes(int(channels), dtype)

    @functools.cache  # noqa: B019
    def _takes(self, channels: int, dtype: torch.dtype) -> bool:
        if self.chunk(channels, dtype) > 0:
            return True
        warnings.warn(
            f"{channels} channels are no multiple of {self.lanes(dtype)}, as this processor's "
            "kernels take them: plain PyTorch does the work, many times slower",
            KernelWarning,
            stacklevel=2,
        )
        return False

    @functools.cache  # noqa: B019
    def fields(self, struct: str) -> tuple[str, ...]:
        """The fields of one of the C++ sources' structs of arrays, in their order."""
        function = getattr(self._functions, f"eip_fields_{struct}")
        function.restype = ctypes.c_char_p
        return tuple(function().decode().split())


def kernels_for(array: Tensor) -> Library | None:
    """The kernels, if they can work on this array and are wanted."""
    if array.dtype not in _SUFFIX or whose_kernels(array.device) != "cpu":
        return None
    return library()


def library() -> Library | None:
    """The kernels, compiled if need be; None, with a warning, where that cannot be done.

    Raises:
        InputError: as `variant`.
    """
    return _library(chosen())


@functools.cache
def _library(variant: str) -> Library | None:
    march = VARIANTS[variant][0]
    if march is None:
        return None
    try:
        return _load(march)
    except CannotCompile as error:
        warnings.warn(
            f"eIP runs without its compiled kernels, many times slower: {error}",
            KernelWarning,
            stacklevel=2,
        )
        return None


class KernelWarning(RuntimeWarning):
    """The kernels are missing, or not where they should be."""


class CannotCompile(Exception):
    """What the compiler said, or that there is none."""


def _as_c(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_void_p(None) if value is None else value


def _load(march: str) -> Library:
    """The library of the first folder that has it whole; compiled anew where none has."""
    source = Path(__file__).parent
    compiler, flags = _compiler(), (march, *FLAGS)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    digest = hashlib.sha256()
    sources = sorted(source.glob("*.h")) + sorted(source.glob("*.cpp"))
    for part in (version, " ".join(flags), processor(), *(s.read_text() for s in sources)):
        digest.update(part.encode())
    key = f"eip-{digest.hexdigest()[:16]}"
    trouble: list[str] = []
    for folder in cache.folders():
        try:
            path = cache.find(folder, key)
            if path is not None:
                found = Library(path)
                _say(f"eIP's kernels are those in {folder}", trouble)
                return found
        except (cache.NotTrusted, OSError) as error:
            trouble.append(str(error))
    content = compile_library([compiler, *flags, *(str(s) for s in source.glob("*.cpp"))], trouble)
    for folder in cache.folders():
        try:
            made = Library(cache.keep(folder, key, content))
            _say(f"eIP compiled its kernels anew and keeps them in {folder}", trouble)
            return made
        except (cache.NotTrusted, OSError) as error:
            trouble.append(str(error))
    try:
        with tempfile.TemporaryDirectory(prefix="eip-kernels-") as private:
            path = Path(private) / f"{key}.so"
            path.write_bytes(content)
            made = Library(path)  # mapped into memory: the file is not needed any more
    except OSError as error:
        raise CannotCompile("; ".join(dict.fromkeys([*trouble, str(error)]))) from error
    _say("eIP compiled its kernels for this process alone", trouble)
    return made


def _say(what: str, trouble: list[str]) -> None:
    if trouble:
        warnings.warn(f"{what}: {'; '.join(dict.fromkeys(trouble))}", KernelWarning, stacklevel=4)


def compile_library(command: list[str], trouble: list[str]) -> bytes:
    """What the compiler makes; tried a second time, elsewhere, where it fails or is killed.

    Args:
        command: but for where to put it.
        trouble: is added to where the first time failed.

    Raises:
        CannotCompile: if it failed twice.
    """
    failure = ""
    for place in (None, *cache.folders()):
        try:
            if place is not None:
                cache.make(place)
            with tempfile.TemporaryDirectory(prefix="compile-", dir=place) as work:
                out = Path(work) / "kernels.so"
                done = subprocess.run(
                    [*command, "-o", str(out)],
                    capture_output=True,
                    text=True,
                    env={**os.environ, "TMPDIR": work},
                )
                if done.returncode == 0:
                    if failure:
                        trouble.append(failure)
                    return out.read_bytes()
        except (cache.NotTrusted, OSError) as error:
            failure = failure or str(error)
            continue
        if failure:
            break
        failure = f"{' '.join(command)}\nended with {done.returncode}\n{done.stderr[-2000:]}"
    raise CannotCompile(failure)


def _compiler() -> str:
    chosen = os.environ.get("CXX")
    names = [chosen] if chosen else ["c++", "g++", "clang++"]
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    told = f"CXX is {chosen}" if chosen else f"looked for {', '.join(names)}"
    raise CannotCompile(f"no C++ compiler was found ({told})")
