"""The whole comparison: `make bench`, or a part of it.

python benchmarks/run.py --only md_step --threads 2
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report
import sections
import tables
import torch
from pool import PEERS, installed_peers
from rich.console import Console

RESULTS = Path(__file__).resolve().parent / "results"


def platforms(threads: list[int], devices: list[str]) -> list[sections.Platform]:
    """The processor with each number of threads, and the GPU with the last of them."""
    out = [sections.Platform("cpu", n) for n in threads] if "cpu" in devices else []
    if "cuda" in devices:
        out.append(sections.Platform("cuda", threads[-1]))
    return out


def run(
    names: list[str],
    where: list[sections.Platform],
    context: sections.Context,
    folder: Path,
    console: Console,
) -> None:
    """Runs sections and writes their files; a failed one is named at the end."""
    failed = []
    for name in names:
        own = where
        if name in sections.ONCE:
            last_of_device = {platform.device: platform for platform in where}
            own = list(last_of_device.values())
        if name in sections.CPU_ONLY:
            own = [platform for platform in own if platform.device == "cpu"]
        content: dict[str, Any] = {
            "circumstances": report.circumstances(),
            "peers_absent": [peer for peer in PEERS if peer not in context.peers],
            "platforms": [],
        }
        start = time.monotonic()
        for platform in own:
            console.print(f"[bold]{name}[/] on {platform.device}, {platform.threads} thread(s) …")
            try:
                result = sections.SECTIONS[name](context, platform)
            except Exception as error:  # the other sections are worth having
                console.print_exception(max_frames=4)
                result = {"error": str(error)}
                failed.append(name)
            content["platforms"].append(
                {"device": platform.device, "threads": platform.threads, **result}
            )
        content["seconds"] = round(time.monotonic() - start, 1)
        path = report.write(name, content, folder)
        console.print(f"  {content['seconds']:.0f} s → {path}")
    for name in names:
        if name not in failed:
            tables.show(name, folder / f"{name}.json", console)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = os.cpu_count() or 1
    parser.add_argument("--only", nargs="+", choices=sections.SECTIONS, metavar="SECTION")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, cores}))
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="default: all that are installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a calculation in a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    console = Console()
    if os.getloadavg()[0] > 0.3:
        console.print(f"[yellow]the machine is not quiet: load average {os.getloadavg()[0]:.1f}")
    devices = given.devices or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    peers = installed_peers() if given.peers is None else given.peers
    missing = [peer for peer in PEERS if peer not in installed_peers()]
    if missing:
        console.print(f"[yellow]no environment for {', '.join(missing)}: make bench-env")
    with tempfile.TemporaryDirectory() as folder:
        context = sections.Context(peers, given.rounds, given.seconds, Path(folder))
        run(
            given.only or list(sections.SECTIONS),
            platforms(given.threads, devices),
            context,
            given.out,
            console,
        )


if __name__ == "__main__":
    main()
