"""What a frozen network says of frames of MPtrj, asked once and kept: all else is minutes.

The head, the distance and the guard are tried on these, as `eip attach` makes them of frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from eip.data import FrameStore, GraphDataset, Labels, open_frames
from eip.data.dataset import Batch
from eip.errors import InputError
from eip.models.settings import backbone_settings
from eip.prediction import Prediction
from eip.uncertainty.attached import AttachedPotential

#: Of the sample, and away: hot and compressed crystals, and random displacements.
SETS = ("mptrj-random-1k", "mpf-TP", "random-TP")
LABELS = Labels(group="mptrj_traj_id")


def empty(network: str, elements: list[int], force_scale: float = 1.0) -> AttachedPotential:
    """The network with a head of fresh weights."""
    potential = AttachedPotential(
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=force_scale,
        backbone=backbone_settings(network).pretrained(),
    )
    return potential.eval().requires_grad_(False)


def _open(data: Path, name: str) -> FrameStore:
    # The sets away do not say which material a frame is of.
    labels = LABELS if name == SETS[0] else Labels()
    return open_frames([data / f"{name}.xyz"], labels, require=("forces",))


def ask(network: str, data: Path, work: Path, most_atoms: int, most: int) -> None:
    """Asks the network of frames with few atoms, of the sets away of so many that are drawn."""
    potential = None
    for name in SETS:
        path = work / network / f"{name}.pt"
        known = torch.load(path, weights_only=True) if path.exists() else {}
        store = _open(data, name)
        if potential is None:
            known_elements = empty(network, [1]).energy_model.backbone.elements
            potential = empty(network, list(known_elements))
        chosen = np.flatnonzero(store.n_atoms <= most_atoms)
        if name != SETS[0]:
            chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:most])
        dataset = GraphDataset(store, chosen, cutoff=potential.cutoff)
        path.parent.mkdir(parents=True, exist_ok=True)
        for count, index in enumerate(chosen.tolist()):
            if index in known:
                continue
            batch = dataset[count]
            try:
                said = potential.asked(batch.graph)
                known[index] = {k: getattr(said, k) for k in ("energy", "forces", "features")}
            except InputError as error:
                print(f"{batch.sources[0]}: {error}")
                known[index] = {}
            if count % 50 == 0 or count == len(chosen) - 1:
                torch.save(known, path)
                print(name, count + 1, "of", len(chosen), flush=True)


def read(network: str, data: Path, work: Path, cutoff: float) -> dict[str, tuple]:
    """By set: frames, what the network says of them, and the material of each."""
    found = {}
    for name in SETS:
        known = torch.load(work / network / f"{name}.pt", weights_only=True)
        store = _open(data, name)
        indices = np.array([index for index, said in known.items() if said])
        dataset = GraphDataset(store, indices, cutoff=cutoff)
        batches: list[Batch] = [dataset[i] for i in range(len(dataset))]
        said = [Prediction(**known[int(index)]) for index in indices]
        groups = None if store.groups is None else store.groups[indices]
        found[name] = batches, said, groups
    return found
