from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from ase.build import molecule

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.kernels import build, choice, kernels_for, library, reference_path, variant
from eip.models.painn import PaiNN
from eip.neighbors import build_graph
from eip.settings.values import Kernels

#: Each asks for the kernels that it is about.
pytestmark = pytest.mark.once

FORCES = """
import warnings
warnings.simplefilter("always")
import torch
from ase.build import molecule
from eip.kernels import library
from eip.models.painn import PaiNN
from eip.neighbors import build_graph
torch.manual_seed(0)
network = PaiNN(2, 16)
graph = build_graph(molecule("H2O"), network.cutoff)
for _ in range(2):
    vectors = graph.edge_vectors(torch.float32)
    features = network.fixed(graph, (graph.numbers > 1).long(), vectors)
print("kernels:", library() is not None, "scalars:", float(features.scalars.sum()))
"""


def run(cache: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FORCES],
        env=os.environ
        | {"OMP_NUM_THREADS": "1"}
        | ({} if cache is None else {"EIP_CACHE_DIR": str(cache)})
        | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def scalars(output: str) -> float:
    return float(output.rsplit("scalars:", 1)[1])


def compiler(folder: Path, script: str) -> str:
    """A command in the compiler's place; ``$out`` is the file it is to write."""
    path = folder / "compiler"
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo 1; exit; fi\n'
        'out=$(echo "$@" | sed "s/.* -o //")\n'
        f"{script}\n"
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: Path) -> Path:
    """A cache and a folder of temporary files of its own, and a compiler that takes no time."""
    for name in ("cache", "tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("EIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", compiler(tmp_path, f'cp {loaded} "$out"; echo >> {tmp_path}/calls'))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture(scope="module")
def loaded() -> Path:
    """The library that the other tests use."""
    lib = build._load("-march=native")
    return lib.path


def compiled(machine: Path) -> int:
    calls = machine / "calls"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def load(match: str | None = None) -> build.Library:
    """What another process would load; ``match``: the one warning, none where None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = build._load("-march=native")
    assert found.chunk(16, torch.float32) > 0  # it can be called
    said = [str(w.message) for w in caught]
    assert len(said) == (match is not None), said
    if match is not None:
        assert re.search(match, said[0]), said[0]
    return found


def test_it_is_compiled_once_and_found_again(machine: Path) -> None:
    first = load()
    assert list((machine / "cache").iterdir()) == [first.path]
    made = first.path.stat().st_mtime_ns
    assert load().path == first.path and first.path.stat().st_mtime_ns == made
    assert compiled(machine) == 1
    assert list((machine / "tmp").iterdir()) == []


def test_the_cache_is_the_users_alone(machine: Path) -> None:
    (machine / "cache").rmdir()
    old = os.umask(0)
    try:
        path = load().path
    finally:
        os.umask(old)
    assert path.parent.stat().st_mode & 0o077 == 0 and path.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("damage", ["empty", "truncated", "altered"])
def test_a_damaged_library_is_not_loaded_but_made_anew(machine: Path, damage: str) -> None:
    path = load().path
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "truncated": content[:middle],
        "altered": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
    }[damage]
    os.unlink(path)  # it is mapped
    path.write_bytes(damaged)
    again = load("compiled its kernels anew.*is damaged")
    assert again.path == path and path.read_bytes() == content
    load()
    assert compiled(machine) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("whose", ["library", "folder"])
def test_what_belongs_to_another_user_is_not_loaded(machine: Path, whose: str) -> None:
    path = load().path
    os.chown(path if whose == "library" else path.parent, 12345, 12345)
    again = load("belongs to another user")
    assert again.path.stat().st_uid == 0 and again.path.parent.stat().st_uid == 0
    assert (again.path.parent == path.parent) == (whose == "library")
    assert compiled(machine) == 2


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_left_alone(machine: Path, mode: int) -> None:
    planted = load().path
    (machine / "cache").chmod(mode)
    again = load(rf"keeps them in .*tmp.*others can write to .*cache \(mode {mode:o}")
    assert again.path.parent.parent == machine / "tmp"
    assert again.path.parent.stat().st_mode & 0o777 == 0o700
    # The next process finds it there, and says so too.
    assert load("kernels are those in .*tmp.*others can write").path == again.path
    assert planted.exists() and compiled(machine) == 2


def test_a_library_that_others_can_write_to_is_made_anew(machine: Path) -> None:
    path = load().path
    path.chmod(0o666)
    assert load("others can write to .*so").path == path
    assert path.stat().st_mode & 0o022 == 0 and compiled(machine) == 2


def test_without_a_cache_that_can_be_made(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "file").write_text("")
    monkeypatch.setenv("EIP_CACHE_DIR", str(machine / "file" / "cache"))
    first = load("keeps them in .*tmp")
    assert load().path == first.path
    # Nor one for temporary files: for this process alone, and nothing stays behind.
    shutil.rmtree(first.path.parent)
    first.path.parent.write_text("")
    load("for this process alone")
    assert list((machine / "tmp").iterdir()) == [first.path.parent]


def test_a_full_disk_in_the_home(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.is_relative_to(machine / "cache"):
            whole(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    load("keeps them in .*tmp.*No space left on device")
    assert list((machine / "cache").iterdir()) == []


def test_a_user_without_a_home(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EIP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert load().path.is_relative_to(machine / "tmp")


def test_a_compiler_that_is_killed_half_way(
    machine: Path, monkeypatch: pytest.MonkeyPatch, loaded: Path
) -> None:
    script = f"""
    if [ ! -e {machine}/killed ]; then
        touch {machine}/killed; head -c 1000 {loaded} > "$out"; kill -9 $$
    fi
    cp {loaded} "$out"
    """
    monkeypatch.setenv("CXX", compiler(machine, script))
    path = load(r"compiled its kernels anew[\s\S]*ended with -9").path
    assert list((machine / "cache").iterdir()) == [path] and not list((machine / "tmp").iterdir())


def test_a_process_that_dies_while_it_compiles_is_in_nobodys_way(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = os.environ["CXX"]
    monkeypatch.setenv("CXX", compiler(machine, 'head -c 1000 /dev/zero > "$out"; kill -9 $PPID'))
    code = "from eip.kernels import build; build._load('-march=native')"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (machine / "compiler").unlink()
    monkeypatch.setenv("CXX", fast)
    assert not list((machine / "cache").iterdir())


def test_without_a_compiler_the_plain_path_does_the_work_and_says_so_once(tmp_path: Path) -> None:
    done = run(tmp_path, CXX="no-such-compiler", EIP_KERNELS="native")
    assert "kernels: False" in done.stdout
    assert done.stderr.count("KernelWarning") == 1
    assert "CXX is no-such-compiler" in done.stderr
    # Without a folder: the kernels that the other tests use, compiled long ago.
    assert scalars(done.stdout) == pytest.approx(scalars(run().stdout), rel=1e-5)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(machine, "echo 'not a language I know' >&2\nexit 3"))
    with pytest.raises(build.CannotCompile, match="ended with 3\nnot a language I know"):
        build._load("-march=native")
    assert not list((machine / "cache").iterdir()) and not list((machine / "tmp").glob("*/*"))


def test_variants_have_libraries_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EIP_KERNELS", raising=False)
    assert variant() == "native"
    for name in choice.runnable():
        monkeypatch.setenv("EIP_KERNELS", name)
        assert variant() == name
    marches = [march for march, _ in choice.VARIANTS.values() if march is not None]
    assert len(set(marches)) == len(marches)


def test_a_variant_that_is_none_or_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIP_KERNELS", "avx3")
    with pytest.raises(
        InputError,
        match="EIP_KERNELS is 'avx3'; expected one of native, avx512, avx2, triton, reference",
    ):
        variant()
    monkeypatch.setattr(choice, "processor", lambda: "flags : fma avx avx2 bmi1 bmi2 f16c movbe")
    assert choice.runnable() == ("native", "avx2", "triton", "reference")
    monkeypatch.setenv("EIP_KERNELS", "avx512")
    with pytest.raises(InputError, match=r"this processor lacks avx512f, .*take 'reference'"):
        variant()


def test_the_reference_path_can_be_asked_for() -> None:
    array = torch.zeros(1)
    if variant() in ("reference", "triton"):
        assert library() is None and kernels_for(array) is None
        return
    assert library() is not None, "the tests need a C++ compiler"
    assert kernels_for(array) is library()
    with reference_path():
        assert kernels_for(array) is None
    assert kernels_for(array) is library()
    assert kernels_for(array.half()) is None
    assert kernels_for(array.to("meta")) is None


def test_edge_vectors_and_their_gradients_are_those_of_plain_pytorch() -> None:
    torch.manual_seed(0)
    edges = 20
    centers = torch.sort(torch.randint(0, 5, (edges,))).values
    graph = AtomGraph(
        numbers=torch.ones(5, dtype=torch.int64),
        positions=torch.randn(5, 3, dtype=torch.float64),
        cell=torch.randn(2, 3, 3, dtype=torch.float64),
        pbc=torch.ones(2, 3, dtype=torch.bool),
        frame=torch.tensor([0, 0, 1, 1, 1]),
        centers=centers,
        neighbors=torch.randint(0, 5, (edges,)),
        shifts=torch.randint(-2, 3, (edges, 3)).double(),
    )

    def vectors(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return AtomGraph(**{**graph.__dict__, "positions": positions, "cell": cell}).edge_vectors()

    with reference_path():
        plain = vectors(graph.positions, graph.cell)
    torch.testing.assert_close(vectors(graph.positions, graph.cell), plain, rtol=0, atol=1e-14)
    inputs = (graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(vectors, inputs)
    assert torch.autograd.gradgradcheck(lambda x, c: vectors(x, c).pow(3), inputs)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names an x86 processor")
def test_processors_of_other_vector_widths_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = PaiNN(2, 16)
    graph = build_graph(molecule("H2O"), network.cutoff)
    species = (graph.numbers > 1).long()
    vectors = graph.edge_vectors().float()

    def features(lib: build.Library) -> torch.Tensor:
        monkeypatch.setattr(build, "library", lambda: lib)
        return network.fixed(graph, species, vectors).scalars

    with reference_path():
        plain = network.fixed(graph, species, vectors).scalars
    for name in choice.runnable():
        march = choice.VARIANTS[name][0]
        if march is not None:
            torch.testing.assert_close(features(build._load(march)), plain, rtol=0, atol=1e-5)
    # SSE2, which is no variant: nobody's processor is that old, but vectors of 16 bytes are NEON's.
    # Hardly optimized, for time.
    other = tmp_path / "compiler"
    edit = "s/-march=native/-march=x86-64/; s/-O3/-O1/"
    other.write_text(f'#!/bin/sh\nexec c++ $(echo "$@" | sed "{edit}")\n')
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    monkeypatch.setenv("EIP_CACHE_DIR", str(tmp_path / "cache"))
    # Where a cache cannot be used, other runs have left their libraries there.
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    lib = build._load("-march=native")
    assert lib.path.parent == tmp_path / "cache"
    torch.testing.assert_close(features(lib), plain, rtol=0, atol=1e-5)


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has asked for kernels."""
    with monkeypatch.context() as patched:
        patched.delenv("EIP_KERNELS", raising=False)
        choice.chosen.cache_clear()
        yield
    choice.chosen.cache_clear()


def test_a_run_chooses_its_kernels_for_itself_and_its_processes(unasked: None) -> None:
    cpu = torch.device("cpu")
    with choice.using("reference", "training.kernels"):
        assert os.environ["EIP_KERNELS"] == variant() == "reference"
        assert choice.whose_kernels(cpu) is None and library() is None
        with choice.using("triton"):
            assert choice.whose_kernels(cpu) == "cuda"
        with choice.using(None):
            assert variant() == "reference"
    assert "EIP_KERNELS" not in os.environ and choice.whose_kernels(cpu) == "cpu"


def test_kernels_that_there_are_not_are_refused_by_the_name_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        pytest.raises(InputError, match=r"training\.kernels is 'cpu'; expected one of native, "),
        choice.using("cpu", "training.kernels"),
    ):
        pass
    monkeypatch.setattr(choice, "processor", lambda: "flags: sse2")
    with (
        pytest.raises(InputError, match=r"^kernels is 'avx2', but this processor lacks avx2, bmi1"),
        choice.using("avx2"),
    ):
        pass


def test_settings_know_the_kernels_that_there_are() -> None:
    assert get_args(Kernels) == tuple(choice.VARIANTS)
