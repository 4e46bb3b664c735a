"""The benchmarks measure what they say: their structures, their count of operations, their keys."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ase import units
from torch.utils.flop_counter import FlopCounterMode

from eip.graph import AtomGraph
from eip.kernels import reference_path
from eip.models.painn import PaiNN
from eip.neighbors import find_edges

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """The module of the benchmarks that the test names."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module(request.param)


@pytest.mark.parametrize("module", ["structures"], indirect=True)
def test_water_box_is_as_dense_as_water(module: ModuleType) -> None:
    box = module.water_box(4)
    assert len(box) == 192 and box.pbc.all()
    assert box.symbols.formula.count() == {"O": 64, "H": 128}
    density = box.get_masses().sum() / units.kg * 1e3 / (box.get_volume() * 1e-24)
    assert density == pytest.approx(0.997, rel=1e-6)
    centers = find_edges(box.positions, box.cell.array, box.pbc, 5.0)[0]
    # 52.4 by the density; the molecule's own two or one atoms are there in any case.
    assert len(centers) / len(box) == pytest.approx(53, abs=3)
    distances = box.get_all_distances(mic=True)
    oxygen = np.flatnonzero(box.numbers == 8)
    bonds = distances[oxygen[:, None], oxygen[:, None] + [1, 2]]
    assert bonds == pytest.approx(0.97, abs=0.01)  # rigid molecules, whatever their orientation
    assert distances[np.triu_indices(192, 1)].min() > 0.5
    assert not np.allclose(box.positions, module.water_box(4, seed=1).positions)
    assert np.array_equal(box.positions, module.water_box(4).positions)


@pytest.mark.parametrize("module", ["structures"], indirect=True)
def test_structures_survive_their_file(module: ModuleType, tmp_path: Path) -> None:
    frames = [module.water_box(2), *module.small_molecules(5)]
    module.save(tmp_path / "frames.npz", frames)
    assert module.load(tmp_path / "frames.npz") == frames
    assert all(len(f) >= 3 and set(f.numbers) <= {1, 6, 7, 8} for f in frames)


@pytest.mark.parametrize("module", ["structures"], indirect=True)
def test_motion_stays_where_it_is_and_outruns_a_skin(module: ModuleType) -> None:
    box = module.water_box(3)
    motion = module.Motion(box)
    track = np.array([motion.next() for _ in range(80)])
    moved = np.linalg.norm(track - box.positions, axis=2).max(axis=1)
    assert 0.25 < moved.max() < 2.0
    assert moved[39] == pytest.approx(0.0, abs=1e-12) and moved[79] == pytest.approx(0, abs=1e-12)
    assert np.abs(np.diff(track, axis=0)).max() < 0.1  # no atom jumps


@pytest.mark.parametrize("module", ["floor"], indirect=True)
def test_dense_operations_are_those_that_torch_counts(module: ModuleType) -> None:
    atoms, channels, layers = 6, 32, 3
    torch.manual_seed(0)
    network = PaiNN(2, channels, layers, 20, 5.0).requires_grad_(False)
    # Too far apart for edges: nothing but dense layers is left.
    nothing = torch.zeros(0, dtype=torch.int64)
    graph = AtomGraph(
        numbers=torch.ones(atoms, dtype=torch.int64),
        positions=100.0 * torch.arange(3.0 * atoms).reshape(atoms, 3),
        cell=torch.zeros(1, 3, 3),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        frame=torch.zeros(atoms, dtype=torch.int64),
        centers=nothing,
        neighbors=nothing,
        shifts=torch.zeros(0, 3),
    )
    vectors = torch.zeros(0, 3, requires_grad=True)
    with reference_path(), FlopCounterMode(display=False) as counter:
        features = network(graph, graph.numbers, vectors)
        forward = counter.get_total_flops()
        features.scalars.sum().backward()
    total = counter.get_total_flops()
    counted = module.counted_operations(atoms, 0, channels, layers, sigma=False)
    readout = atoms * channels**2 / 2 * 2 * 2
    assert forward == (counted - readout) / 2
    # The gradient ends at the embedding: the first layer's φ has none.
    assert total == counted - readout - atoms * 4 * channels**2 * 2
    by_edge = module.counted_operations(atoms, 10, channels, layers, sigma=False) - counted
    assert by_edge == 10 * layers * (37 + 78) * channels


@pytest.mark.parametrize("module", ["pool"], indirect=True)
def test_ratio_is_of_medians_with_the_range_over_rounds(module: ModuleType) -> None:
    job = module.Job("slow", None, {}, rounds=[[3.0, 3.0, 9.0], [4.0]])
    slow, fast = job.result, module.Job("fast", None, {}, rounds=[[1.0], [2.0]]).result
    assert (slow["median"], slow["best"], slow["rounds"]) == (3.5, 3.0, [3.0, 4.0])
    found = module.ratio({"slow": slow, "fast": fast}, "slow", "fast")
    assert found == {"ratio": 3.5 / 1.5, "of_best": 3.0, "range": [2.0, 3.0]}
    broken = module.Job("broken", None, {}, error="no memory").result
    assert module.ratio({"slow": broken, "fast": fast}, "slow", "fast") is None


@pytest.mark.timeout(300)
def test_quick_prints_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "quick.py"), "--per-side", "2"]
    command += ["--memory-per-side", "3", "--threads", "1", "--rounds", "1", "--seconds", "0.01"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert set(figures) == {
        "md_step_ms",
        "reference_path_ms",
        "floor_ms",
        "over_floor",
        "sigma_overhead",
        "udd_over_md",
        "bytes_per_atom",
    }
    for key in set(figures) - {"sigma_overhead", "bytes_per_atom"}:
        assert figures[key] > 0, key


@pytest.mark.timeout(300)
def test_a_worker_that_fails_says_why_and_lives_on() -> None:
    script = (
        "from pool import WorkerError, WorkerProcess\n"
        "worker = WorkerProcess('eip', 1)\n"
        "try:\n"
        "    worker.ask('dance')\n"
        "except WorkerError as error:\n"
        "    print(error)\n"
        "print(worker.load([1, 8])['implementation'])\n"
        "worker.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.stdout == "eip: ValueError: unknown request 'dance'\neIP\n", done.stderr


@pytest.mark.parametrize("module", ["gpu"], indirect=True)
def test_figures_of_a_gpu_are_kept_and_gone_on_with(module: ModuleType, tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("the card is gone")

    path = tmp_path / "part.json"
    record = module.Record(path)
    assert record("one", lambda: {"seconds": 1.0}) == {"seconds": 1.0}
    assert "the card is gone" in record("two", fails)["error"]
    again = module.Record(path)
    assert again("one", fails) == {"seconds": 1.0}
    assert again("two", lambda: {"seconds": 2.0}) == {"seconds": 2.0}
    assert json.loads(path.read_text()) == {"one": {"seconds": 1.0}, "two": {"seconds": 2.0}}


@pytest.mark.parametrize("module", ["gpu"], indirect=True)
def test_the_script_of_a_gpu_ends_in_time_and_says_what_is_wrong(
    module: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sum(module.LIMITS.values()) < 8 * 60 + 60 and set(module.LIMITS) == set(module.PARTS)
    script = tmp_path / "gpu.py"
    # A part that hangs, one that fails, and one that finds an error.
    script.write_text(
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "out = Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "name = sys.argv[sys.argv.index('--part') + 1]\n"
        "said = {'about': {'x': {'y': 1}}, 'md': {'x': {'error': 'no'}},\n"
        "        'correctness': {'float32 is right': {'is': False}}}\n"
        "(out / f'{name}.json').write_text(json.dumps(said.get(name, {})))\n"
        "if name == 'train':\n"
        "    time.sleep(600)\n"
    )
    module.__dict__["__file__"] = str(script)
    module.LIMITS["train"] = 6
    options = module.argparse.Namespace(out=tmp_path, dry_run=False, seconds=300.0, only=None)
    assert module.run_parts(options) == 1
    said = capfd.readouterr().out
    assert "train: stopped at its limit" in said and "md, x: no" in said
    assert "WRONG: not so that float32 is right" in said
    assert not (tmp_path / "train.done").exists() and (tmp_path / "about.done").exists()
    assert json.loads((tmp_path / "gpu.json").read_text())["about"] == {"x": {"y": 1}}
