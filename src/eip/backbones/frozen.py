"""What networks that others trained have in common: their weights are left alone until thawed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eip.errors import InputError
from eip.models.backbone import Backbone, Layers

F = TypeVar("F", bound="FrozenBackbone")


class FrozenBackbone(Backbone):
    """A network of another package.

    It lies where PyTorch does not look for modules: its weights are in no model file, no optimizer
    and no checkpoint. Thawed, it is a module like others.

    Args:
        network: with its weights. Those that its package does not train stay as they are.
    """

    own_energy = True
    trainable = False
    vector_channels = 0
    own: nn.Module
    _precision: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._left = {name for name, p in network.named_parameters() if not p.requires_grad}
        self._inside: tuple[nn.Module, ...] = (network.requires_grad_(False).eval(),)
        first = next(p for p in network.parameters() if p.is_floating_point())
        self.register_buffer("_precision", torch.zeros((), dtype=first.dtype), persistent=False)

    @property
    def network(self) -> nn.Module:
        """The other package's own."""
        return self._inside[0] if self._inside else self.own

    def thawed(self: F) -> F:
        """The same, whose weights are trained and kept from now on."""
        self.own, self._inside = self.network, ()
        self.trainable = True
        return self

    def architecture(self) -> dict[str, Any]:
        """What its package makes such a network of, fresh: JSON-able.

        Raises:
            InputError: if it cannot be said of this one.
        """
        raise InputError(f"a {type(self).__name__} does not say of what it is made anew")

    def last_layers(self) -> tuple[nn.Module, ...]:
        """Those of the network that are trained where only the last are; the energy's are enough.

        By default all of it.
        """
        return (self.network,)

    def trained(self, layers: Layers = "all") -> Iterator[nn.Parameter]:
        if self.trainable:
            left = {id(p) for name, p in self.network.named_parameters() if name in self._left}
            for part in (self.network,) if layers == "all" else self.last_layers():
                yield from (p for p in part.parameters() if id(p) not in left)

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Its norms, and what it leaves out at random, stay as they are where it predicts."""
        super().train(False)
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self._precision.dtype

    @property
    def device(self) -> torch.device:
        return self._precision.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenBackbone:
        super()._apply(fn, recurse)
        for network in self._inside:
            network._apply(fn, recurse)
        return self
