"""What methods cost in time and memory, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from eip.config import Config
from eip.data.dataset import Batch
from eip.executors import Pool
from eip.model_file import load_model, read_model_info
from eip.models.backbone import begin_training
from eip.potential import Potential, layers, prepared
from eip.training.loss import Loss
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.methods import method
from eip.verbs.memory import peak_memory, timed_batch
from eip.verbs.networks import bare_network

#: Beside the keys of `eip.evaluation.METRIC_KEYS`.
COST_KEYS: dict[str, str] = {
    "training_seconds": "of all networks that the method trains, as it went, s",
    "training_cost": "time of a training step over that of the plain potential, interleaved, "
    "median, times the number of networks",
    "prediction_cost": "time of energy, forces and σ over that of the plain potential's energy and "
    "forces, interleaved, median",
    "memory_mb": "what loading and predicting add to the process's peak memory, MB (on a GPU: the "
    "peak there)",
}

#: Of the batch that is timed; the median of the first is taken.
_ROUNDS, _WARM_UP = 15, 3


def costs_of(models: Mapping[str, Path], config: Config) -> dict[str, dict[str, float]]:
    """The keys of ``COST_KEYS`` that are ratios or sizes, of models one of which is "none".

    Timed in turn, so that what else the machine does falls on all alike.
    """
    loaded = {label: load_model(path) for label, path in models.items()}
    snapshots = {label: prepared(potential) for label, potential in loaded.items()}
    batch = timed_batch(config, loaded["none"])
    loss = Loss.of(config.training)
    networks = {label: bare_network(load_model(path)) for label, path in models.items()}
    for label, path in models.items():
        trained = read_model_info(path)["info"]["config"]["model"]["uncertainty"]
        # To train what is fitted after a plain training would be another method.
        if method(trained).starts_from == "plain":
            networks[label] = bare_network(load_model(models["none"]))
    for network in networks.values():
        begin_training(network)
    predicting: dict[str, list[float]] = {label: [] for label in loaded}
    training: dict[str, list[float]] = {label: [] for label in loaded}
    for round_ in range(_WARM_UP + _ROUNDS):
        for label, potential in snapshots.items():
            times = predicting_seconds(potential, batch), _step(networks[label], batch, loss)
            if round_ >= _WARM_UP:
                predicting[label].append(times[0])
                training[label].append(times[1])
    plain = statistics.median(predicting["none"]), statistics.median(training["none"])
    out = {}
    for label, path in models.items():
        # A process for each: a peak never goes down again.
        with Pool("processes", threads=torch.get_num_threads()) as pool:
            (memory,) = pool.run(peak_memory, {label: (path, config)})
        if memory.error is not None:
            raise memory.error
        out[label] = {
            "prediction_cost": statistics.median(predicting[label]) / plain[0],
            "training_cost": statistics.median(training[label]) / plain[1] * _count(loaded[label]),
            "memory_mb": memory.value,
        }
    return out


def _count(potential: Potential) -> int:
    """Networks that had to be trained."""
    *_, innermost = layers(potential)
    return len(innermost.members) if isinstance(innermost, EnsemblePotential) else 1


def predicting_seconds(potential: Potential, batch: Batch) -> float:
    """Of energy, forces and σ."""
    started = time.perf_counter()
    potential(batch.graph)
    _wait_for(potential)
    return time.perf_counter() - started


def _step(network: Potential, batch: Batch, loss: Loss) -> float:
    """Forward and backward pass of training."""
    started = time.perf_counter()
    loss(network(batch.graph, differentiable="everything"), batch).total.backward()
    for parameter in network.parameters():
        parameter.grad = None
    _wait_for(network)
    return time.perf_counter() - started


def _wait_for(potential: Potential) -> None:
    if potential.device.type == "cuda":
        torch.cuda.synchronize()
