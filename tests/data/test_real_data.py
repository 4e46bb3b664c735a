"""The readers on published data; skipped where it does not lie beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eip.data import (
    GraphDataset,
    fit_element_energies,
    force_rms,
    open_frames,
    read_frames,
    split_indices,
    summarize,
    write_store,
)
from eip.errors import InputError


@pytest.mark.parametrize(
    ("name", "atoms", "periodic", "labels"),
    [
        ("water/data_0", 192, True, ("energy", "forces")),
        ("silica/sod.npz", 36, True, ("energy", "forces")),
        ("aspirin/rmd17_aspirin_train.xyz", 21, False, ("energy", "forces")),
        ("acac/train_300K.xyz", 15, False, ("energy", "forces")),
        ("3bpa/train_300K.xyz", 27, False, ("energy", "forces")),
        ("mptrj/mptrj-random-1k.xyz", None, True, ("energy", "forces", "stress")),
        ("mptrj/mpf-TP.xyz", None, True, ("energy", "forces", "stress")),
    ],
)
def test_every_folder(
    shared_data: Path,
    tmp_path: Path,
    name: str,
    atoms: int | None,
    periodic: bool,
    labels: tuple[str, ...],
) -> None:
    frames = read_frames(shared_data / name, index=":12", require=labels)
    store = write_store(frames, tmp_path / "s")
    summary = summarize(store)
    assert len(store) == 12 and (atoms is None or set(store.n_atoms) == {atoms})
    assert summary.periodic["all" if periodic else "no"] == 12
    assert 0.05 < force_rms(store) < 5
    # What is left for a network is small; totals are up to 3e4 eV.
    energies = fit_element_energies(store)
    left = [f.energy - sum(energies[int(z)] for z in f.numbers) for f in store]
    assert np.abs(left / store.n_atoms).max() < 2
    batch = GraphDataset(store, cutoff=5.0, elements=store.elements)[3]
    assert batch.graph.n_edges > 0 and bool(torch.isfinite(batch.graph.edge_vectors()).all())


def test_aspirin_totals_are_exact(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "aspirin" / "rmd17_aspirin_train.xyz"
    store = write_store(read_frames(file, index=":3"), tmp_path / "s")
    with file.open() as lines:
        written = [float(t.split("energy=")[1].split()[0]) for t in lines if "energy=" in t][:3]
    for index, energy in enumerate(written):
        batch = GraphDataset(store, cutoff=5.0)[index]
        assert batch.energy is not None and batch.energy.item() == energy
        assert float(np.float32(energy)) != energy  # what float32 would have lost


def test_the_materials_of_mptrj(shared_data: Path, tmp_path: Path) -> None:
    frames = read_frames(shared_data / "mptrj" / "mptrj-random-1k.xyz")
    store = write_store(frames, tmp_path / "s")
    assert len(store) == 1000 and len(store.group_names) == 998
    train, held = split_indices(1000, 0.1, 0, "by_group", store.groups)
    assert not set(store.groups[train]) & set(store.groups[held]) and len(held) == 100
    # At tens of GPa a crystal is compressed, and its stress, in ASE's sign, is negative.
    hot = [f.stress for f in read_frames(shared_data / "mptrj" / "mpf-TP.xyz", index=":200")]
    assert np.median([np.trace(stress) for stress in hot]) < 0


def test_energy_only_files(shared_data: Path) -> None:
    file = shared_data / "acac" / "test_dihedral.xyz"
    assert len(list(read_frames(file, require=("energy",)))) == 45
    with pytest.raises(InputError, match=r"test_dihedral\.xyz#0 has no forces"):
        next(read_frames(file, require=("energy", "forces")))


def test_acac_isolated_atoms(shared_data: Path, tmp_path: Path) -> None:
    files = [shared_data / "acac" / name for name in ("test_MD_600K.xyz", "isolated_atoms.xyz")]
    energies = open_frames(files, cache_dir=tmp_path).isolated_atoms
    assert sorted(energies) == [1, 6, 8] and energies[1] == pytest.approx(-13.568422178253735)


def test_the_dummy_cell_of_acac(shared_data: Path) -> None:
    frame = next(read_frames(shared_data / "acac" / "train_300K.xyz"))
    assert not frame.cell.any() and not frame.pbc.any()
