"""metatomic's own calculator says what ASE says, of a file that needs no eIP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.io import write

import eip
from eip.models.short_range import ShortRangeSettings
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.testing import engine_structures
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import fit_calibration
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.latent_distance import fit_latent_distance

from .conftest import network

pytestmark = pytest.mark.engines

#: What the processes below begin with: arguments are the model and the file that is made of it.
_BEGIN = """
import sys
import numpy as np
from metatomic.torch import ModelOutput
from metatomic_ase import MetatomicCalculator

def opened(path):
    sigma = ModelOutput(sample_kind="atom", unit="eV/A")
    return MetatomicCalculator(
        path, device="cpu", check_consistency=True, uncertainty_threshold=None,
        additional_outputs={"eip::force_uncertainty": sigma},
    )
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process where types are not checked: TorchScript compiles what is written, alone."""
    return subprocess.run(
        [sys.executable, "-c", _BEGIN + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    pytest.importorskip("metatomic", reason="metatomic is missing: pip install 'eip[metatomic]'")
    pytest.importorskip("metatomic_ase", reason="metatomic-ase is missing: it comes with metatomic")


def with_everything(backbone: str) -> Potential:
    """Evidence, repulsion, latent distance with its guard, calibration."""
    inside = network(
        backbone=backbone, short_range=ShortRangeSettings({(1, 1): 1.2, (1, 8): 0.85})
    ).requires_grad_(False)
    rng, found = np.random.default_rng(0), engine_structures(inside.elements, inside.cutoff)
    frames = []
    for seed in range(24):
        atoms = found["a large cubic cell"].copy()
        atoms.rattle(0.05, seed=seed)
        frames.append(build_graph(atoms, inside.cutoff))
    noise = [torch.from_numpy(rng.normal(size=(g.n_atoms, 3))).float() for g in frames[12:]]
    labels = [(g, inside(g).forces + n) for g, n in zip(frames[12:], noise, strict=True)]
    latent = fit_latent_distance(inside, frames[:12], labels)
    sigma = [latent(graph).force_uncertainty.double().numpy() for graph in frames[12:]]
    calibration = fit_calibration(
        np.concatenate([n.double().numpy() for n in noise]),
        np.concatenate(sigma),
        np.concatenate([graph.numbers.numpy() for graph in frames[12:]]),
        frames=np.repeat(np.arange(12), [graph.n_atoms for graph in frames[12:]]),
    )
    return CalibratedPotential(latent, calibration).eval()


_CONTRACT = """
import eip
from eip.engines.metatomic import export
from eip.testing import check_engine

potential = eip.load(sys.argv[1])
assert str(export(sys.argv[1], sys.argv[2])) == sys.argv[2]
calculator = opened(sys.argv[2])

def evaluate(atoms):
    atoms = atoms.copy()
    atoms.calc = calculator
    said = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    sigma = calculator.additional_outputs["eip::force_uncertainty"]
    said["force_uncertainty"] = sigma.block().values.detach().numpy()[:, 0]
    if atoms.pbc.all():
        said["virial"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
    return said

# Not kernels and splines, but plain PyTorch, in float32: in a wire of three atoms whose forces
# nearly cancel, some processors are 1.04e-5 apart.
check_engine(evaluate, potential, gives=("energy", "forces", "force_uncertainty"), tolerance=2e-5)
"""


@pytest.mark.parametrize("backbone", ["painn", "cartesian_ace"])
def test_it_keeps_the_contract_of_engines(backbone: str, tmp_path: Path) -> None:
    eip.save(with_everything(backbone), tmp_path / "model.eip")
    done = run(_CONTRACT, tmp_path / "model.eip", tmp_path / "folder" / "model.pt")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["model.pt"]


_ELSEWHERE = """
from ase.io import read
from metatensor.torch import Labels

calculator = opened(sys.argv[1])
structures = read(sys.argv[2], ":")
assert not any(name.split(".")[0] == "eip" for name in sys.modules)
kinds = {"energy": "system", "eip::force_uncertainty": "atom", "eip::uncertainty": "system"}
outputs = {name: ModelOutput(sample_kind=kind) for name, kind in kinds.items()}
said = calculator.run_model(structures, outputs)
energy = said["energy"].block()
assert energy.values.shape == (3, 1) and energy.properties.names == ["energy"]
sigma = said["eip::force_uncertainty"].block()
counts = [len(atoms) for atoms in structures]
assert sigma.values.shape == (sum(counts), 1) and sigma.samples.names == ["system", "atom"]
means = [part.mean() for part in np.split(sigma.values.detach().numpy(), np.cumsum(counts)[:-1])]
np.testing.assert_allclose(said["eip::uncertainty"].block().values[:, 0].detach(), means, rtol=1e-5)
by_atom = {"energy": ModelOutput(sample_kind="atom")}
each = calculator.run_model(structures, by_atom)["energy"].block()
total = np.add.reduceat(each.values[:, 0].detach().numpy(), [0, *np.cumsum(counts)[:-1]])
np.testing.assert_allclose(total, energy.values[:, 0].detach(), rtol=1e-12)
import torch
some = Labels(["system", "atom"], torch.tensor([[0, 1], [1, 0], [1, 2], [2, 0]]))
chosen = calculator.run_model(structures, {**outputs, **by_atom}, some)
rows = [1, counts[0], counts[0] + 2, counts[0] + counts[1]]
np.testing.assert_allclose(chosen["energy"].block().values.detach(), each.values[rows].detach())
np.testing.assert_allclose(
    chosen["eip::force_uncertainty"].block().values.detach(), sigma.values[rows].detach()
)
"""


def test_the_file_stands_alone(model_file: Path, tmp_path: Path) -> None:
    """Of many structures at once, and of some of their atoms, without eIP."""
    code = "from eip.engines.metatomic import export; export(*sys.argv[1:])"
    done = run(code, model_file, tmp_path / "model.pt")
    assert done.returncode == 0, done.stderr[-3000:]
    found = engine_structures((1, 8, 14), 4.0)
    chosen = [found[name] for name in ("water", "silica", "liquid water")]
    write(tmp_path / "some.xyz", chosen)
    done = run(_ELSEWHERE, tmp_path / "model.pt", tmp_path / "some.xyz")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("make", "name", "error"),
    [
        (lambda: network(), "model.eip", "a model of metatomic is a file that ends in .pt"),
        (
            lambda: EnsemblePotential([network(), network()]),
            "model.pt",
            "only potentials of one network of eIP's own can be exported to metatomic",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(make: Any, name: str, error: str, tmp_path: Path) -> None:
    eip.save(make(), tmp_path / "given.eip")
    code = "from eip.engines.metatomic import export; export(*sys.argv[1:])"
    done = run(code, tmp_path / "given.eip", tmp_path / name)
    assert done.returncode == 1 and error in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["given.eip"]


_DEVIATES = """
import eip
from eip.engines import metatomic

trace = metatomic._traced
def wrong(*arguments):
    right = trace(*arguments)
    return lambda *arrays: (right(*arrays)[0], 1.01 * right(*arrays)[1], right(*arrays)[2])
metatomic._traced = wrong
metatomic.export(*sys.argv[1:])
"""


def test_a_trace_that_deviates_is_not_written(model_file: Path, tmp_path: Path) -> None:
    done = run(_DEVIATES, model_file, tmp_path / "model.pt")
    assert done.returncode == 1 and "what was traced deviates from it by" in done.stderr
    assert not (tmp_path / "model.pt").exists()
