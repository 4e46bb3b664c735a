"""Kills runs of every verb at random moments, and lets each go on until it ends.

    python tests/fuzz/kills.py --kills 300 [--verbs train,learn] [--seed 0] [--keep FOLDER]

A run that was killed any number of times must end as one that was not, and with the same result.
Children are forks of one process that has imported everything, so that a kill costs what the run
itself takes.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from ase.build import molecule
from ase.io import write
from safetensors import safe_open

import eip.active_learning.exploration
import eip.data.convert
import eip.data.fetch
import eip.verbs.compare
import eip.verbs.learn
import eip.verbs.md
import eip.verbs.train
from eip.active_learning.labelling import label_frames
from eip.active_learning.ledger import Ledger
from eip.config import LearningConfig, load_config
from eip.data.fetch import DataSet, RemoteFile
from eip.simulation import DynamicsSettings

NETWORK = "model: {channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.0}\n"
TRAIN = (
    "run_dir: run\ndata: {train: train.xyz, validation: 4, test: test.xyz}\n"
    + NETWORK
    + "training: {epochs: 4, num_workers: 0, device: cpu}\n"
)
LEARN = """
run_dir: run
data: {test: test.xyz}
model: {channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.5}
training: {epochs: 2, device: cpu}
learn:
  starts: start.xyz
  labeler: ase
  labeler_options: {calculator: "CALC:make"}
  generations: 2
  initial: 6
  labels: 2
  length_ps: 0.02
  frame_interval: 2
  lower: 1.0e-6
  upper: 1.0e6
  executor: serial
"""
CALC = "from ase.calculators.emt import EMT\ndef make():\n    return EMT()\n"


@dataclass
class Inputs:
    """What all runs read; made once."""

    folder: Path
    model: Path = field(init=False)
    url: str = field(init=False)

    def __post_init__(self) -> None:
        from ase.calculators.emt import EMT

        rng = np.random.default_rng(0)
        for name, count in (("train", 20), ("test", 6), ("many", 400)):
            frames = []
            for _ in range(count):
                atoms = molecule("CH3OH")
                atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
                atoms.calc = EMT()
                atoms.get_forces()
                frames.append(atoms)
            write(self.folder / f"{name}.xyz", frames, format="extxyz")
        write(self.folder / "start.xyz", molecule("CH3OH"))
        (self.folder / "calc.py").write_text(CALC)
        (self.folder / "train.yaml").write_text(TRAIN)
        (self.folder / "learn.yaml").write_text(LEARN.replace("CALC", str(self.folder / "calc.py")))
        config = load_config(self.folder / "train.yaml", [f"run_dir={self.folder / 'teacher'}"])
        eip.verbs.train.train(config, progress=False)
        self.model = self.folder / "teacher" / "model.eip"
        served = self.folder / "served"
        served.mkdir()
        for k in range(3):
            (served / f"{k}.bin").write_bytes(rng.bytes(300_000))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"


def _handler(folder: Path) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        """Slow, and able to go on in the middle."""

        def do_GET(self) -> None:
            content = (folder / self.path.strip("/")).read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(found[1]) if found else 0
            self.send_response(206 if found else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(len(content) - start))
            if found:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            for k in range(start, len(content), 1 << 16):
                try:
                    self.wfile.write(content[k : k + (1 << 16)])
                except OSError:  # it was killed
                    return
                time.sleep(0.02)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


# --- the verbs: how a run is begun or gone on with, and what it comes to --------------------------


def train(inputs: Inputs, work: Path) -> None:
    config = load_config(inputs.folder / "train.yaml", [f"run_dir={work / 'run'}"])
    eip.verbs.train.train(config, resume=True, progress=False)


def compare(inputs: Inputs, work: Path) -> None:
    more = [f"run_dir={work / 'run'}", "training.epochs=2"]
    config = load_config(inputs.folder / "train.yaml", more)
    # Times are no result, and are taken in processes of their own.
    eip.verbs.compare.costs_of = lambda models, config: {label: {} for label in models}
    eip.verbs.compare.compare(config, ["mve", "gmm"], progress=False)


def learn(inputs: Inputs, work: Path) -> None:
    more = [f"run_dir={work / 'run'}"]
    config = load_config(inputs.folder / "learn.yaml", more, root=LearningConfig)
    eip.verbs.learn.learn(config, resume=True, progress=False)


def md(inputs: Inputs, work: Path) -> None:
    settings = DynamicsSettings(
        steps=150,
        log_interval=5,
        trajectory_interval=10,
        checkpoint_interval=20,
        max_bond_stretch=None,
        max_temperature=1e6,
        min_distance=0.01,
        min_distance_ratio=0.01,
    )
    eip.verbs.md.md(
        inputs.model, inputs.folder / "start.xyz", settings, work / "run",
        resume=True, progress=False,
    )  # fmt: skip


def label(inputs: Inputs, work: Path) -> None:
    from ase.io import read

    frames = {f"many#{k}": a for k, a in enumerate(read(inputs.folder / "many.xyz", ":80"))}
    options = {"calculator": f"{inputs.folder / 'calc.py'}:make"}
    label_frames(frames, work / "out.xyz", "ase", options, executor="serial", progress=False)


def convert(inputs: Inputs, work: Path) -> None:
    files = [inputs.folder / f"{name}.xyz" for name in ("many", "test", "many")]
    eip.data.convert.convert(files, work / "out", checkpoint_s=0.001)


def fetch(inputs: Inputs, work: Path) -> None:
    remote = tuple(
        RemoteFile(
            f"{k}.bin",
            f"{inputs.url}/{k}.bin",
            "sha256:" + hashlib.sha256((inputs.folder / "served" / f"{k}.bin").read_bytes())
            .hexdigest(),
        )
        for k in range(3)
    )  # fmt: skip
    eip.data.fetch.fetch(DataSet("set", "a set", "-", "-", "-", files=remote), work)


VERBS: dict[str, Callable[[Inputs, Path], None]] = {
    f.__name__: f for f in (train, convert, md, learn, label, compare, fetch)
}


def _weights(path: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(path, framework="np") as file:
        for name in sorted(file.keys()):
            digest.update(name.encode() + file.get_tensor(name).tobytes())
    return digest.hexdigest()


def result(verb: str, work: Path) -> dict[str, object]:
    """What must not hang on kills: files as they are, weights, the ledger; no times."""
    run = work / "run"
    names = {
        "train": ("train.csv", "metrics.json"),
        "md": ("trajectory.xyz", "log.csv", "last.xyz"),
        "label": ("out.xyz",),
        "compare": (
            "none/seed0/train.csv", "mve/seed0/train.csv", "gmm/seed0/metrics.json",
            "mve/seed0/metrics.json",
        ),
        "learn": tuple(f"generation-{k:03d}/train.xyz" for k in range(2)),
        "convert": tuple(sorted(p.name for p in (work / "out").glob("*"))),
        "fetch": tuple(sorted(p.name for p in (work / "set").glob("*.bin"))),
    }[verb]  # fmt: skip
    folder = {"label": work, "convert": work / "out", "fetch": work / "set"}.get(verb, run)
    out: dict[str, object] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names
    }
    for model in sorted(run.rglob("model.eip")):
        out[str(model.relative_to(run))] = _weights(model)
    if verb == "learn":
        ledger = Ledger(run / "ledger.db")
        out["ledger"] = sorted((c.key, c.state, c.used_in) for c in ledger.candidates())
    return out


# --- kills ---------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """Of one verb."""

    kills: int = 0
    ended: int = 0
    stuck: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def _fork(verb: str, inputs: Inputs, work: Path) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with (work.parent / f"{work.name}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        torch.set_num_threads(1)
        VERBS[verb](inputs, work)
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        sys.__stderr__.flush()
    finally:
        os._exit(code)


def _wait(pid: int) -> int | None:
    """The exit code; None of a child that was killed."""
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def kill_verb(verb: str, kills: int, inputs: Inputs, scratch: Path, rng: random.Random) -> Outcome:
    """Kills so many runs of a verb; each goes on until it ends, and is compared."""
    outcome = Outcome()
    whole = scratch / f"{verb}-whole"
    whole.mkdir(parents=True)
    begun = time.monotonic()
    if code := _wait(_fork(verb, inputs, whole)):
        outcome.stuck.append(f"{verb} unkilled ended with {code}: {_tail(whole)}")
        return outcome
    length = time.monotonic() - begun
    expected = result(verb, whole)
    round_ = 0
    while outcome.kills < kills:
        work = scratch / f"{verb}-{round_}"
        work.mkdir()
        round_ += 1
        while True:
            pid = _fork(verb, inputs, work)
            if outcome.kills < kills:
                # Now and then in the first moments, else anywhere.
                longest = length if rng.random() < 0.7 else 0.15 * length
                time.sleep(rng.uniform(0.0, longest))
                os.kill(pid, signal.SIGKILL)
            code = _wait(pid)
            if code is None:
                outcome.kills += 1
                continue
            break
        outcome.ended += 1
        if code:
            outcome.stuck.append(f"{work}: {_tail(work)}")
        elif (found := result(verb, work)) != expected:
            changed = [k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)]
            outcome.different.append(f"{work}: {', '.join(sorted(changed))}")
        else:
            shutil.rmtree(work)
    return outcome


def _tail(work: Path) -> str:
    return (work.parent / f"{work.name}.log").read_text()[-600:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for what went wrong")
    given = parser.parse_args()
    verbs, rng = given.verbs.split(","), random.Random(given.seed)
    scratch = given.keep or Path(tempfile.mkdtemp(prefix="eip-kills-"))
    scratch.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    (scratch / "inputs").mkdir()
    inputs = Inputs(scratch / "inputs")
    bad = 0
    for verb in verbs:
        found = kill_verb(verb, -(-given.kills // len(verbs)), inputs, scratch, rng)
        bad += len(found.stuck) + len(found.different)
        counts = {"kills": found.kills, "runs ended": found.ended, "stuck": len(found.stuck),
                  "another result": len(found.different)}  # fmt: skip
        print(verb, json.dumps(counts), flush=True)
        for text in (*found.stuck, *found.different):
            print("   ", text, flush=True)
    if not bad and given.keep is None:
        shutil.rmtree(scratch)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
