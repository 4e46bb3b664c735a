"""What a potential adds to the memory of a process that does nothing else.

Apart from `eip.verbs.costs`, as Lightning would take most of the time of such a process.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from eip.config import Config
from eip.data import open_frames
from eip.data.dataset import Batch, GraphDataset, make_loader
from eip.model_file import load_model
from eip.potential import Potential

#: Atoms of the batch that costs are measured on, about.
_ATOMS = 200


def test_set(config: Config, potential: Potential) -> GraphDataset:
    """Graphs of the frames that no method has seen."""
    store = open_frames(config.data.test, config.data.label_keys(), config.run_dir / "data")
    return GraphDataset(store, cutoff=potential.cutoff, dtype=potential.dtype)


def timed_batch(config: Config, potential: Potential) -> Batch:
    """Frames of the test set, some two hundred atoms."""
    dataset = test_set(config, potential)
    loader = make_loader(dataset, max_atoms=_ATOMS, shuffle=False, seed=0)
    batch: Batch = next(iter(loader)).to(potential.device)
    return batch


def peak_memory(model: Path, config: Config) -> float:
    """MB that loading and predicting add; on a GPU, the peak there."""
    before = _forget_peak()
    potential = load_model(model)
    batch = timed_batch(config, potential)
    for _ in range(3):
        potential(batch.graph)
    if potential.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return _peak() - before


def _forget_peak() -> float:
    """Memory of the process now, MB; where the system can, the peak is counted from here on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    """MB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
