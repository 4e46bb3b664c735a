"""What networks that others trained have in common: their weights are neither trained nor kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eip.models.backbone import Backbone


class FrozenBackbone(Backbone):
    """A network of another package.

    It lies where PyTorch does not look for modules: its weights are in no model file, no optimizer
    and no checkpoint.

    Args:
        network: with its weights.
    """

    own_energy = True
    trainable = False
    vector_channels = 0
    _precision: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._inside = (network.requires_grad_(False).eval(),)
        first = next(p for p in network.parameters() if p.is_floating_point())
        self.register_buffer("_precision", torch.zeros((), dtype=first.dtype), persistent=False)

    @property
    def network(self) -> nn.Module:
        """The other package's own."""
        return self._inside[0]

    @property
    def dtype(self) -> torch.dtype:
        return self._precision.dtype

    @property
    def device(self) -> torch.device:
        return self._precision.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenBackbone:
        super()._apply(fn, recurse)
        self._inside[0]._apply(fn, recurse)
        return self
