"""Our own paths and the floor, in one JSON line: `make bench-quick`.

192 water atoms, 128 channels, all cores, calculations in turn, medians. What each key means:
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from floor import counted_operations
from pool import Job, WorkerProcess, compare
from structures import save, water_box

VARIANTS = ("tensor", "none", "udd", "reference")


def measure(
    per_side: int, memory_per_side: int, threads: int, rounds: int, seconds: float
) -> dict[str, float]:
    """The figures; ``per_side``³ molecules for times, ``memory_per_side``³ for memory."""
    with tempfile.TemporaryDirectory() as folder:
        timed, large, small = (str(Path(folder) / f"{n}.npz") for n in ("timed", "large", "small"))
        save(Path(timed), [water_box(per_side)])
        save(Path(large), [water_box(memory_per_side)])
        save(Path(small), [water_box(2)])
        worker = WorkerProcess("eip", threads)
        try:
            worker.load([1, 8])
            graph = worker.ask("report", what="graph", structures=timed)
            rates = [worker.ask("rate", atoms=graph["atoms"], seconds=seconds)["best"]]
            jobs = [
                Job(
                    variant,
                    worker,
                    {
                        "what": "md_step",
                        "structures": timed,
                        "options": {"variant": variant, "mode": "model"},
                    },
                )
                for variant in VARIANTS
            ]
            results = compare(jobs, rounds=rounds, seconds=seconds, least=1, limit=15.0)
            rates.append(worker.ask("rate", atoms=graph["atoms"], seconds=seconds)["best"])
        finally:
            worker.close()
        # A process that has not yet grown: what it held before would hide what it needs.
        worker = WorkerProcess("eip", threads)
        try:
            worker.load([1, 8])
            memory = worker.ask(
                "memory", structures=large, warm_up=small, options={"variant": "tensor"}
            )
        finally:
            worker.close()
    errors = {label: r["error"] for label, r in results.items() if "error" in r}
    if errors:
        raise SystemExit(f"could not be measured: {errors}")
    floor = counted_operations(graph["atoms"], graph["edges"]) / max(rates)
    step = results["tensor"]["median"]
    return {
        "md_step_ms": round(1e3 * step, 3),
        "reference_path_ms": round(1e3 * results["reference"]["median"], 3),
        "floor_ms": round(1e3 * floor, 3),
        "over_floor": round(step / floor, 3),
        "sigma_overhead": round(by_round(results, "tensor", "none") - 1, 4),
        "udd_over_md": round(by_round(results, "udd", "tensor"), 4),
        "bytes_per_atom": round(memory["total"] / (3 * memory_per_side**3)),
    }


def by_round(results: dict, one: str, other: str) -> float:
    """Median over the rounds of one time over another: a slow moment hits both."""
    pairs = zip(results[one]["rounds"], results[other]["rounds"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-side", type=int, default=4, help="cube root of the molecules timed")
    parser.add_argument("--memory-per-side", type=int, default=12, help="the same, for memory")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each variant in each round")
    given = parser.parse_args()
    figures = measure(
        given.per_side, given.memory_per_side, given.threads, given.rounds, given.seconds
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
