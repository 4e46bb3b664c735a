"""Training of a head alone, on what a network that is left as it is says: minutes, on one core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from eip.data.dataset import Batch
from eip.errors import InputError
from eip.training.trainer import seeded
from eip.uncertainty.attached import AttachedPotential, ForceHead
from eip.uncertainty.evidence import Errors


@dataclass(frozen=True)
class Known:
    """Of atoms: what the network knows of them and predicts, and its errors, eV/Å."""

    invariants: Float[Tensor, "atoms channels"]
    forces: Float[Tensor, "atoms 3"]
    errors: Float[Tensor, "atoms 3"]


def known_of(potential: AttachedPotential, batches: Iterable[Batch]) -> Known:
    """Of all atoms of frames with a label: what a network says of them, and its errors.

    Args:
        batches: with forces.
    """
    found = []
    for batch in batches:
        batch = batch.to(potential.device, potential.dtype)
        assert batch.forces is not None
        said = potential.asked(batch.graph)
        assert said.forces is not None and said.features is not None
        errors = batch.forces - said.forces
        labelled = errors.isfinite().all(dim=1)
        found.append(Known(said.features[labelled], said.forces[labelled], errors[labelled]))
    return joined(found)


def joined(parts: Sequence[Known]) -> Known:
    """One after the other."""
    names = [field.name for field in fields(Known)]
    return Known(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


#: Atoms of one step, and passes over all of them, at most and without a better likelihood.
_STEP, _EPOCHS, _PATIENCE = 1024, 300, 50
#: λ of the loss.
_REGULARIZATION = 0.01


def train_head(
    head: ForceHead, training: Known, held_out: Known, *, seed: int = 0, progress: bool = False
) -> int:
    """Trains a head in place and leaves it at its best epoch on held-out atoms; which, is returned.

    Args:
        progress: shows a progress bar.

    Raises:
        InputError: if a set has no atoms.
    """
    if not len(training.errors) or not len(held_out.errors):
        raise InputError("a head is trained on labelled and held-out atoms, got none")
    with seeded(seed):
        # At first σ goes with the force alone.
        torch.nn.init.zeros_(head.out.weight)
        torch.nn.init.zeros_(head.out.bias)
        head.standardize(training.invariants)
        components = [head.components(known.invariants) for known in (training, held_out)]
        head.train().requires_grad_(True)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
        best, best_loss, best_epoch = _weights(head), float("inf"), 0
        for epoch in _counted(progress):
            order = torch.randperm(len(training.errors))
            for part in order.split(_STEP):
                optimizer.zero_grad()
                _loss(head, components[0], training, part.to(training.errors.device)).backward()
                torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()
            with torch.no_grad():
                loss = float(_loss(head, components[1], held_out))
            if loss < best_loss:
                best, best_loss, best_epoch = _weights(head), loss, epoch
            if epoch - best_epoch > _PATIENCE:
                break
    head.load_state_dict(best)
    head.eval().requires_grad_(False)
    return best_epoch


def _loss(
    head: ForceHead, components: Tensor, known: Known, part: Tensor | slice = slice(None)
) -> Tensor:
    evidence = head(components[part], known.forces[part])
    errors = Errors(known.errors.new_zeros(0), known.errors[part], None, _REGULARIZATION)
    return evidence.loss(errors)


def _weights(head: ForceHead) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in head.state_dict().items()}


def _counted(progress: bool) -> Iterable[int]:
    epochs = range(1, _EPOCHS + 1)
    if not progress:
        return epochs
    from rich.console import Console
    from rich.progress import track

    return track(epochs, "Training the head", console=Console(stderr=True), transient=True)
