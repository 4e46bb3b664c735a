"""What a run was made on, its files, and its tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent


def circumstances() -> dict[str, Any]:
    """Machine, versions, commit and date. A load well above 0 at the start says: not quiet."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "src", "benchmarks")),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": memory()["MemTotal"],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": list(os.getloadavg()),
    }


def memory() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def write(section: str, content: dict[str, Any], folder: Path) -> Path:
    """One section's file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{section}.json"
    text = json.dumps({"section": section, **content}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n")
    return path


def show(console: Console, title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
    """One table."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
