"""Which weights decay, how the learning rate runs, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from eip.errors import InputError


def decay_groups(module: torch.nn.Module, decay: float, matrices: bool) -> list[dict[str, Any]]:
    """Weights of a module as an optimizer takes them; with ``matrices`` others do not decay."""
    if not matrices:
        return [{"params": list(module.parameters()), "weight_decay": decay}]
    embeddings = {
        id(p) for m in module.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
    }
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in module.parameters():
        groups[parameter.ndim > 1 and id(parameter) not in embeddings].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay if decays else 0.0}
        for decays, parameters in groups.items()
        if parameters
    ]


def warmup_cosine(warmup: int, total: int, floor: float) -> Callable[[int], float]:
    """Factor on the learning rate at each step: linear rise, then half a cosine down to a floor."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


class Averaging(WeightAveraging):
    """Exponential moving average of the weights, with a shorter memory in the first steps."""

    def __init__(self, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"ema_decay must lie in [0, 1), got {decay}")

        # Of the module: a local function could not go to the processes of other devices.
        super().__init__(use_buffers=False, avg_fn=partial(_average, decay))


def _average(decay: float, averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    n = float(count)
    weight = min(decay, (1.0 + n) / (10.0 + n))
    return torch.lerp(current, averaged, weight)
