"""What is measured, section by section; each returns plain figures in SI units and counts."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report
from floor import counted_operations
from pool import Job, WorkerError, WorkerProcess, compare, processes, ratio
from structures import save, small_molecules, water_box

WATER = [1, 8]
ORGANIC = [1, 6, 7, 8]
#: The size that "in 24 GB" of the results is about.
BUDGET_BYTES = 24e9


@dataclass(frozen=True)
class Context:
    """What all sections share: peers to compare with, how long to measure, where structures lie."""

    peers: Sequence[str]
    rounds: int
    seconds: float
    folder: Path

    def water(self, per_side: int) -> str:
        """One box of ``per_side``³ molecules."""
        return self._saved(f"water_{per_side}", lambda: [water_box(per_side)])

    def training_batch(self) -> str:
        """Ten boxes of 64 molecules."""
        return self._saved("batch", lambda: [water_box(4, seed) for seed in range(10)])

    def molecules(self, count: int) -> str:
        return self._saved(f"molecules_{count}", lambda: small_molecules(count))

    def _saved(self, name: str, make: Callable[[], Any]) -> str:
        path = self.folder / f"{name}.npz"
        if not path.exists():
            save(path, make())
        return str(path)


@dataclass(frozen=True)
class Platform:
    """Where: a device, and the threads of the host."""

    device: str
    threads: int


#: Ours: with σ, without, with the gradient of the bias, and the first in plain PyTorch.
VARIANTS = ("tensor", "none", "udd", "reference")

Result = dict[str, Any]
Section = Callable[[Context, Platform], Result]


def _step(label: str, worker: WorkerProcess, path: str, variant: str, mode: str) -> Job:
    options = {"variant": variant, "mode": mode}
    return Job(label, worker, {"what": "md_step", "structures": path, "options": options})


def _graph(worker: WorkerProcess, path: str) -> Result:
    return worker.ask("report", what="graph", structures=path)


def md_step(context: Context, on: Platform) -> Result:
    """Energy, forces (and σ) of water: ours in all variants against the peers, and the floor."""
    sizes: dict[str, Result] = {}
    with processes(["eip", *context.peers], on.threads, on.device, WATER) as (running, about):
        for per_side in (4, 8):
            path = context.water(per_side)
            graph = _graph(running["eip"], path)
            rates = [running["eip"].ask("rate", atoms=graph["atoms"])]
            jobs = []
            for variant in (*VARIANTS, *(f"ace_{variant}" for variant in VARIANTS)):
                jobs.append(_step(f"eip {variant} model", running["eip"], path, variant, "model"))
            for variant in ("tensor", "ace_tensor"):
                jobs.append(
                    _step(f"eip {variant} calculator", running["eip"], path, variant, "calculator")
                )
            if "mace" in running and per_side == 4:  # the larger box would want some 60 GB of it
                jobs.append(_step("mace large model", running["mace"], path, "large", "model"))
            for name, worker in running.items():
                if name != "eip":
                    for mode in ("model", "calculator"):
                        jobs.append(_step(f"{name} {mode}", worker, path, "default", mode))
            results = compare(jobs, rounds=context.rounds, seconds=context.seconds, least=1)
            rates.append(running["eip"].ask("rate", atoms=graph["atoms"]))
            rate = max(r["best"] for r in rates)
            operations = counted_operations(graph["atoms"], graph["edges"])
            ratios = {
                f"{name} {mode}": ratio(results, f"{name} {mode}", f"eip tensor {mode}")
                for name in running
                if name != "eip"
                for mode in ("model", "calculator")
            }
            if "mace" in running:
                ratios |= {
                    f"{name} over ace": ratio(results, name, "eip ace_tensor model")
                    for name in ("mace model", "mace large model")
                    if name in results
                }
            ratios["reference path"] = ratio(results, "eip reference model", "eip tensor model")
            sizes[str(graph["atoms"])] = {
                **graph,
                "results": results,
                "ratios": ratios,
                "operations": operations,
                "matrix_product_rates": rates,
                "floor_seconds": operations / rate,
                "over_floor": _median(results, "eip tensor model") * rate / operations,
            }
    return {"about": about, "sizes": sizes}


def _median(results: dict[str, Result], label: str) -> float:
    return float(results[label].get("median", math.nan))


def overhead(context: Context, on: Platform) -> Result:
    """What σ costs in inference and in training, and what UDD's second gradient does: ours alone.

    Small differences: many short rounds, and the median of the ratio within each.
    """
    out: Result = {}
    with processes(["eip"], on.threads, on.device, WATER) as (running, about):
        worker = running["eip"]
        for per_side in (4, 8):
            jobs = [
                _step(v, worker, context.water(per_side), v, "model")
                for v in ("tensor", "none", "udd", "ace_tensor", "ace_none", "ace_udd")
            ]
            results = compare(jobs, rounds=4 * context.rounds, seconds=context.seconds / 4)
            out[f"md_step {3 * per_side**3}"] = {
                "results": results,
                "sigma_overhead": _by_round(results, "tensor", "none") - 1,
                "udd_over_md": _by_round(results, "udd", "tensor"),
                "ace_sigma_overhead": _by_round(results, "ace_tensor", "ace_none") - 1,
                "ace_udd_over_md": _by_round(results, "ace_udd", "ace_tensor"),
            }
        jobs = [_training(v, worker, context, v) for v in ("tensor", "none")]
        results = compare(jobs, rounds=context.rounds, seconds=context.seconds, least=1)
        out["train_step"] = {
            "results": results,
            "sigma_overhead": _by_round(results, "tensor", "none") - 1,
        }
    return {"about": about, **out}


def _by_round(results: dict[str, Result], one: str, other: str) -> float:
    if "rounds" not in results[one] or "rounds" not in results[other]:
        return math.nan
    pairs = zip(results[one]["rounds"], results[other]["rounds"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def _training(label: str, worker: WorkerProcess, context: Context, variant: str) -> Job:
    request = {
        "what": "train_step",
        "structures": context.training_batch(),
        "options": {"variant": variant},
    }
    return Job(label, worker, request)


def train_step(context: Context, on: Platform) -> Result:
    """One optimizer step on ten water boxes of 192 atoms."""
    with processes(["eip", *context.peers], on.threads, on.device, WATER) as (running, about):
        ours = ("tensor", "none", "ace_tensor")
        jobs = [_training(f"eip {v}", running["eip"], context, v) for v in ours]
        jobs += [
            _training(name, worker, context, "default")
            for name, worker in running.items()
            if name != "eip"
        ]
        rounds = max(2, context.rounds // 2)
        results = compare(jobs, rounds=rounds, seconds=context.seconds, least=1)
    ratios = {name: ratio(results, name, "eip tensor") for name in context.peers}
    ratios |= {f"{name} over ace": ratio(results, name, "eip ace_tensor") for name in context.peers}
    return {"about": about, "results": results, "ratios": ratios}


def batch_inference(context: Context, on: Platform, count: int = 1000) -> Result:
    """Energies and forces of many small molecules, each at the better of two sizes of batch.

    "all": from ASE structures to arrays, neighbor lists included, each by its own means; "model":
    the model's calls alone.
    """
    path = context.molecules(count)
    with processes(["eip", *context.peers], on.threads, on.device, ORGANIC) as (running, about):
        jobs = [
            Job(
                f"{name} {mode} {atoms}",
                worker,
                {
                    "what": "inference",
                    "structures": path,
                    "options": {
                        "variant": "tensor" if name == "eip" else "default",
                        "mode": mode,
                        "atoms_per_batch": atoms,
                    },
                },
            )
            for mode in ("all", "model")
            for atoms in (1024, 4096)
            for name, worker in running.items()
        ]
        rounds = max(2, context.rounds // 2)
        raw = compare(jobs, rounds=rounds, seconds=context.seconds, least=1)
    results: dict[str, Result] = {}
    for name in ["eip", *context.peers]:
        for mode in ("all", "model"):
            tried = [r for label, r in raw.items() if label.startswith(f"{name} {mode} ")]
            done = [r for r in tried if "median" in r]
            if tried:
                best = min(done, key=lambda r: r["median"]) if done else tried[0]
                results[f"{name} {mode}"] = best
    ratios = {
        f"{name} {mode}": ratio(results, f"{name} {mode}", f"eip {mode}")
        for name in context.peers
        for mode in ("all", "model")
    }
    return {
        "about": about,
        "molecules": count,
        "by_batch_size": raw,
        "results": results,
        "ratios": ratios,
    }


def scaling(context: Context, on: Platform, per_side: Sequence[int] = (4, 8, 16, 40)) -> Result:
    """Time of an atom's share of a step as the box grows."""
    with processes(["eip"], on.threads, on.device, WATER) as (running, about):
        worker = running["eip"]
        jobs = [_step(str(3 * n**3), worker, context.water(n), "tensor", "model") for n in per_side]
        rounds = max(2, context.rounds // 2)
        results = compare(jobs, rounds=rounds, seconds=context.seconds, least=1)
    shares = {
        atoms: result["median"] / int(atoms)
        for atoms, result in results.items()
        if "median" in result
    }
    first = shares.get(str(3 * per_side[0] ** 3), math.nan)
    return {
        "about": about,
        "results": results,
        "seconds_per_atom": shares,
        "over_smallest": {atoms: share / first for atoms, share in shares.items()},
    }


def memory(context: Context, on: Platform) -> Result:
    """Bytes an atom, by the peak of fresh processes; where each runs out of 24 GB."""
    plans = {"eip": (8, 16, 40, 70), **{name: (6, 8, 11, 14) for name in context.peers}}
    out: Result = {}
    for name, plan in plans.items():
        out[name] = _memory_of(context, on, name, plan)
    return {"implementations": out, "budget_bytes": BUDGET_BYTES}


def _memory_of(context: Context, on: Platform, name: str, plan: Sequence[int]) -> Result:
    variant = "tensor" if name == "eip" else "default"
    points: list[Result] = []
    left_out = None
    for per_side in plan:
        atoms = 3 * per_side**3
        if points:
            # Others' processes must not be killed for this one's curiosity.
            expected = points[-1]["base"] + points[-1]["total"] * atoms / points[-1]["atoms"]
            available = report.memory()["MemAvailable"]
            if on.device == "cpu" and expected > 0.9 * available:
                left_out = {
                    "atoms": atoms,
                    "expected_bytes": expected,
                    "available_bytes": available,
                }
                break
        path = context.water(per_side)
        worker = WorkerProcess(name, on.threads, on.device)
        try:
            worker.load(WATER)
            answer = worker.ask(
                "memory",
                structures=path,
                warm_up=context.water(2),
                options={"variant": variant},
            )
        except WorkerError as error:
            left_out = {"atoms": atoms, "error": str(error)}
            break
        finally:
            worker.close()
        answer["atoms"] = atoms
        answer["bytes_per_atom"] = answer["total"] / atoms
        points.append(answer)
    out: Result = {"points": points, "left_out": left_out}
    if len(points) >= 2:
        one, two = points[-2:]
        slope = (two["total"] - one["total"]) / (two["atoms"] - one["atoms"])
        start = two["base"] + two["total"] - slope * two["atoms"]
        fits = (BUDGET_BYTES - start) / slope
        out |= {
            "bytes_per_further_atom": slope,
            "atoms_in_budget": fits,
            "extrapolated": fits > two["atoms"],
        }
    return out


def neighbor(context: Context, on: Platform) -> Result:
    """What the neighbor list and the graph cost in an MD step of the ASE calculator."""
    sizes: dict[str, Result] = {}
    with processes(["eip"], on.threads, on.device, WATER) as (running, about):
        worker = running["eip"]
        for per_side in (4, 8, 16):
            path = context.water(per_side)
            jobs = [
                _step("list and graph", worker, path, "tensor", "graph"),
                _step("list built anew", worker, path, "tensor", "rebuild"),
                _step("model", worker, path, "tensor", "model"),
                _step("calculator", worker, path, "tensor", "calculator"),
            ]
            results = compare(
                jobs, rounds=context.rounds, seconds=context.seconds, least=MOTION_PERIOD
            )
            # Means, not medians: a rebuild comes once in several steps.
            mean = _mean(results["list and graph"])
            sizes[str(3 * per_side**3)] = {
                **_graph(worker, path),
                "results": results,
                "mean_seconds": mean,
                "share": mean / _mean(results["calculator"]),
            }
    return {"about": about, "sizes": sizes}


#: Steps after which `structures.Motion` begins anew.
MOTION_PERIOD = 40


def _mean(result: Result) -> float:
    return float(result.get("mean", math.nan))


def startup(context: Context, on: Platform) -> Result:
    """`eip --help`, and the first prediction of a fresh process."""
    command = [str(Path(sys.executable).with_name("eip")), "--help"]
    wall, cpu = [], []
    for _ in range(2 + context.rounds):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        wall.append(time.perf_counter() - start)
        cpu.append(usage.ru_utime + usage.ru_stime)
    with tempfile.TemporaryDirectory() as cache:
        first = [
            _first_prediction(context, on, environment)
            # Twice with an empty cache for compiled kernels (the second finds what the first left).
            for environment in ({"EIP_CACHE_DIR": cache}, {"EIP_CACHE_DIR": cache}, {}, {})
        ]
    return {
        # The first two bring the files into the system's cache.
        "help_wall_seconds": statistics.median(wall[2:]),
        "help_cpu_seconds": statistics.median(cpu[2:]),
        "kernels_compiled": first[0],
        "kernels_cached": first[1:],
    }


def _first_prediction(context: Context, on: Platform, environment: dict[str, str]) -> Result:
    start = time.perf_counter()
    worker = WorkerProcess("eip", on.threads, on.device, environment)
    try:
        worker.load(WATER)
        loaded = time.perf_counter() - start
        out = worker.ask("report", what="first_prediction", structures=context.water(4))
        return {"process_and_load": loaded, **out}
    finally:
        worker.close()


def accuracy(context: Context, on: Platform) -> Result:
    """Forces of the fast path in float32 against plain PyTorch in float64."""
    with processes(["eip"], on.threads, on.device, WATER) as (running, about):
        boxes = [
            running["eip"].ask("report", what="accuracy", structures=context.water(n))
            for n in (4, 6)
        ]
    return {"about": about, "boxes": boxes}


#: In the order in which they run. Those of the second group are not repeated on one thread.
SECTIONS: dict[str, Section] = {
    "md_step": md_step,
    "overhead": overhead,
    "train_step": train_step,
    "batch_inference": batch_inference,
    "scaling": scaling,
    "neighbor": neighbor,
    "memory": memory,
    "startup": startup,
    "accuracy": accuracy,
}
ONCE = {"memory", "startup", "accuracy"}
#: Of the processor whatever the device: the command line.
CPU_ONLY = {"startup"}
