"""What every worker does: one implementation in one process, asked by lines of JSON.

A request is one line on stdin, ``{"do": ..., ...}``; the answer is one line on the file
descriptor that the environment variable ANSWERS_FD names (libraries print on stdout as they like).

    load      elements, device, threads          → settings and versions of the implementation
    time      what, structures, options, least,
              seconds                            → seconds: one figure for each repeat
    memory    structures, options                → bytes: peak over the loaded process
    rate      atoms, channels                    → operations/s of the matrix product
    report    what, structures, options          → what the worker's method of that name returns
    forget                                       → drops what was prepared

What is timed is prepared at the first request (structures read, inputs made, a step to warm up)
and kept, so that a round robin over several workers comes back to it at once. An answer with a key
``error`` says what went wrong; the worker lives on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from structures import load

Step = Callable[[], object]

#: What all implementations of PaiNN are built with; lengths in Å.
CUTOFF, CHANNELS, LAYERS, RADIAL_FUNCTIONS = 5.0, 128, 3, 20
#: Small enough that no weights run away on labels that mean nothing, the same for all.
LEARNING_RATE = 1e-5


class Worker:
    """One implementation. Its methods prepare a calculation and return a call that does it."""

    device = "cpu"

    def load(self, elements: list[int]) -> dict[str, Any]:
        """Builds the model with random weights; says with what settings."""
        raise NotImplementedError

    def md_step(self, atoms: Atoms, variant: str, mode: str) -> Step:
        """One MD step: energy and forces.

        ``mode`` "model": the model's call with its inputs ready, at other positions each time;
        "calculator": the implementation's own ASE calculator, neighbor list included.
        """
        raise NotImplementedError

    def train_step(self, frames: list[Atoms], labels: Labels, variant: str) -> Step:
        """One step of training on one batch: forward, loss, backward, optimizer."""
        raise NotImplementedError

    def inference(self, frames: list[Atoms], variant: str, mode: str, atoms_per_batch: int) -> Step:
        """Energy and forces of many structures, from ASE ("all") or ready batches ("model")."""
        raise NotImplementedError

    def memory_steps(self, atoms: Atoms, variant: str) -> tuple[Step, Step]:
        """What prepares a structure, and a step of it; the second may use what the first left."""
        made: list[Step] = []
        return lambda: made.append(self.md_step(atoms, variant, "model")), lambda: made[0]()

    def prepare(self, what: str, frames: list[Atoms], options: dict[str, Any]) -> Step:
        if what == "md_step":
            return self.md_step(frames[0], **options)
        if what == "train_step":
            return self.train_step(frames, Labels(frames), **options)
        if what == "inference":
            return self.inference(frames, **options)
        raise ValueError(f"unknown calculation '{what}'")


class Labels:
    """Energies and forces for training that mean nothing: speed does not depend on them."""

    def __init__(self, frames: list[Atoms]) -> None:
        rng = np.random.default_rng(0)
        self.energy = rng.standard_normal(len(frames))
        self.forces = [rng.standard_normal((len(f), 3)) for f in frames]


def batches(frames: list[Atoms], atoms_per_batch: int) -> list[list[Atoms]]:
    """Consecutive structures of about so many atoms together."""
    out: list[list[Atoms]] = [[]]
    atoms = 0
    for frame in frames:
        if out[-1] and atoms + len(frame) > atoms_per_batch:
            out.append([])
            atoms = 0
        out[-1].append(frame)
        atoms += len(frame)
    return out


def serve(worker: Worker) -> None:
    """Answers requests until stdin ends."""
    answers = os.fdopen(int(os.environ["ANSWERS_FD"]), "w", buffering=1)
    # Should memory run out, this process is the one to end, not somebody else's.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    prepared: dict[str, Step] = {}
    for line in sys.stdin:
        try:
            answer = _answer(worker, json.loads(line), prepared)
        except Exception as error:  # the one who asked decides what it means
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
        answers.write(json.dumps(answer) + "\n")


def _answer(worker: Worker, request: dict[str, Any], prepared: dict[str, Step]) -> dict[str, Any]:
    do = request.pop("do")
    if do == "load":
        torch.set_num_threads(request["threads"])
        torch.manual_seed(0)
        worker.device = request["device"]
        prepared.clear()
        versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
        return {**worker.load(request["elements"]), "versions_common": versions}
    if do == "time":
        return {"seconds": _time(worker, request, prepared)}
    if do == "memory":
        return _memory(worker, request)
    if do == "rate":
        from floor import matrix_product_rate

        return matrix_product_rate(device=worker.device, **request)
    if do == "report":
        frames = load(request["structures"]) if request.get("structures") else []
        report = getattr(worker, f"report_{request['what']}")
        return report(frames, **request.get("options", {}))
    if do == "forget":
        prepared.clear()
        gc.collect()
        return {}
    raise ValueError(f"unknown request '{do}'")


def _time(worker: Worker, request: dict[str, Any], prepared: dict[str, Step]) -> list[float]:
    least, budget = request.pop("least"), request.pop("seconds")
    key = json.dumps(request, sort_keys=True)
    if key not in prepared:
        step = worker.prepare(request["what"], load(request["structures"]), request["options"])
        start = time.perf_counter()
        step()
        if time.perf_counter() - start < 1.0:
            step()
        prepared[key] = step
    step = prepared[key]
    seconds: list[float] = []
    # Garbage of what others left is collected now, not in the midst of a step.
    gc.collect()
    while len(seconds) < least or (sum(seconds) < budget and len(seconds) < 1000):
        wait(worker.device)
        start = time.perf_counter()
        step()
        wait(worker.device)
        seconds.append(time.perf_counter() - start)
    return seconds


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _memory(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """Peak memory over that of the loaded process, which has done a small calculation before.

    ``total`` holds the structure, its neighbor list and the list's making; ``step`` the peak of a
    step alone, over the same base.
    """
    variant = request["options"]["variant"]
    prepare, step = worker.memory_steps(load(request["warm_up"])[0], variant)
    prepare()
    step()
    del prepare, step
    gc.collect()
    cuda = worker.device.startswith("cuda")
    base = _device_peak(reset=True) if cuda else _resident("VmRSS")
    _reset_peak()
    prepare, step = worker.memory_steps(load(request["structures"])[0], variant)
    start = time.perf_counter()
    prepare()
    prepared = time.perf_counter() - start
    total = _device_peak(reset=True) if cuda else _resident("VmHWM")
    _reset_peak()
    start = time.perf_counter()
    step()
    wait(worker.device)
    seconds = time.perf_counter() - start
    peak = _device_peak(reset=True) if cuda else _resident("VmHWM")
    return {
        "base": base,
        "step": peak - base,
        "prepare": total - base,
        "total": max(total, peak) - base,
        "prepare_seconds": prepared,
        "step_seconds": seconds,
    }


def _resident(field: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _device_peak(reset: bool) -> int:
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return peak
