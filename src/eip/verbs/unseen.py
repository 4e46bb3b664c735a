"""Errors that a fine-tuned network makes on frames that it was not trained on.

On the frames that a network was trained on it errs less than on others, and elsewhere: a head that
learns from these errors, beside the network or after it, ranks those of new frames worse than the
head did that the network came with (`experiments/backbones`). So the network is trained again, from
the same start, without each part of the training frames in turn, and the head learns from the
errors on the parts that were left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from eip.config import Config
from eip.data import FrameStore, GraphDataset
from eip.training import trainer
from eip.training.heads import joined, known_of, train_head
from eip.uncertainty.attached import AttachedPotential
from eip.verbs.frames import dataset_for, loader
from eip.verbs.messages import Log
from eip.verbs.networks import fresh_network

#: Parts of the training frames.
FOLDS = 2


def head_of_unseen(
    potential: AttachedPotential,
    config: Config,
    store: FrameStore,
    sets: Mapping[str, GraphDataset],
    *,
    progress: bool,
    log: Log,
) -> bool:
    """Trains a fine-tuned network's head again, on errors of networks that were trained without the
    frame that they are asked of. Where there are no two frames with forces it stays as it is.

    Checkpoints are in ``folds`` in the run folder. These networks are trained for as many epochs as
    the one of all frames, and the same frames choose among them.

    Args:
        sets: "train", frames of ``store``, and "validation".

    Returns:
        False where the user interrupted a training.
    """
    training, validation = sets["train"], sets["validation"]
    if len(training) < FOLDS or "forces" not in {*training.labels} & {*validation.labels}:
        return True
    epochs = trainer.planned(config.training, training).epochs
    found = []
    for number, out in enumerate(folds(training.indices, store, config.training.seed)):
        rest = np.setdiff1d(training.indices, out)
        part = f"part {number + 1} of {FOLDS}"
        log(f"Training again without {len(out)} frames ({part}), for the errors on these.")
        network = fresh_network(config, store, rest)
        assert isinstance(network, AttachedPotential)
        result = trainer.train(
            network,
            dataset_for(store, network, rest),
            validation,
            config.training.replace(epochs=epochs),
            config.run_dir / "folds" / str(number),
            resume=True,
            progress=progress,
        )
        if result.ending == "interrupted":
            return False
        # The head reads what its own network says, whose errors on these frames are too small.
        asked = loader(dataset_for(store, network, out))
        errors = known_of(network, asked).errors
        found.append(replace(known_of(potential, asked), errors=errors))
    seed = config.training.seed
    train_head(potential.head, joined(found), known_of(potential, loader(validation)), seed=seed)
    return True


def folds(
    indices: Int[np.ndarray, "frames"], store: FrameStore, seed: int
) -> Iterator[Int[np.ndarray, "part"]]:
    """Parts of frames, drawn; frames of one material stay together if there are several."""
    groups = store.groups[indices]
    if (groups < 0).any() or len(np.unique(groups)) < FOLDS:
        groups = np.arange(len(indices))
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    for number in range(FOLDS):
        yield indices[np.isin(groups, names[number::FOLDS])]
