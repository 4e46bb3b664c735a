"""What a learning run came to, and where one stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eip.active_learning.ledger import Ledger
from eip.errors import InputError
from eip.locks import is_held
from eip.run_folder import read_json

#: In the folder of a generation, that of its dynamics.
EXPLORED = "explore"


def folder_of(generation: int) -> Path:
    """Of a generation, from the folder of the learning run on."""
    return Path(f"generation-{generation:03d}")


@dataclass(frozen=True)
class Generation:
    """One turn of the loop; generation.json holds the same keys.

    Attributes:
        generation: counted from 0.
        training_frames, validation_frames: that its potential was trained with.
        labels: spent before its training, in all.
        metrics: of its training run (`eip.evaluation.METRIC_KEYS`).
        lower, upper: window of the largest σ_i of a candidate, eV/Å.
        runs: how each run of dynamics went.
        seen, candidates: frames looked at and those within the window, by "md" and "udd".
        above: frames more uncertain than the window's upper bound; none in files of before.
        extrapolating: frames of them with an atom of a grade above 1; none in files of before.
        unsound: candidates that geometry ruled out.
        selected: how many are to be labelled.
        labelled, rejected: what became of them; with `LearningSettings.overlap` of those that the
            generation before selected.
        stable: whether every run of MD reached its end.
        stable_ps: the shortest of them, ps.
        stop: why the loop ended here; "" if it went on.
        check: what frames that nothing was trained on say of its potential (`Check`); None without
            a target.
        verdict: whether it is good enough, and what is missing if not; "" without a target.
        fragments: how many of the selected are fragments.
        price: what its labels were expected to cost (`Price`); None: nothing was selected, or the
            file is of before.
        expected_seconds: that its labels were expected to take a worker; None: as ``price``, or
            nothing was labelled before.
    """

    generation: int
    training_frames: int
    validation_frames: int
    labels: int
    metrics: dict[str, float]
    lower: float
    upper: float
    runs: list[dict[str, Any]]
    seen: dict[str, int]
    candidates: dict[str, int]
    unsound: int
    selected: int
    labelled: int
    rejected: int
    stable: bool
    stable_ps: float
    stop: str
    extrapolating: dict[str, int] = field(default_factory=dict)
    above: dict[str, int] = field(default_factory=dict)
    check: dict[str, Any] | None = None
    verdict: str = ""
    fragments: int = 0
    price: dict[str, Any] | None = None
    expected_seconds: float | None = None

    def uncertain(self, kind: str) -> int:
        """Frames under "md" or "udd" that are worth a label, or past that."""
        return self.candidates[kind] + self.above.get(kind, 0)

    def run_folder(self, name: str) -> Path:
        """Of a run of its dynamics, from the folder of the learning run on."""
        return folder_of(self.generation) / EXPLORED / name

    @property
    def open_verdict(self) -> str:
        """The verdict as a sentence, unless it is what the loop ended with already."""
        if not self.verdict or self.verdict == self.stop:
            return ""
        return f"{self.verdict[0].upper()}{self.verdict[1:]}."


@dataclass(frozen=True)
class LearningResult:
    """What a learning run came to.

    Attributes:
        generations: in order.
        model: of the last training.
        reason: why it stopped.
        labels: made in all, rejected ones not counted.
        seconds: by "training", "exploration", "labelling" and "other".
    """

    generations: list[Generation]
    model: Path
    reason: str
    labels: int
    seconds: dict[str, float]

    @property
    def overhead_fraction(self) -> float:
        """Share of the wall time beyond training, dynamics and labels."""
        return self.seconds["other"] / max(sum(self.seconds.values()), 1e-9)


def as_json(result: LearningResult, folder: Path) -> dict[str, Any]:
    """learning.json, of which paths are relative to the run's folder."""
    return {
        "reason": result.reason or "going on",
        "labels": result.labels,
        "model": str(result.model.relative_to(folder)),
        "seconds": result.seconds,
        "overhead_fraction": result.overhead_fraction,
        "generations": [
            {
                **vars(g),
                "runs": [{**run, "folder": str(g.run_folder(run["name"]))} for run in g.runs],
            }
            for g in result.generations
        ],
    }


def status(folder: str | Path) -> dict[str, Any]:
    """Where a run stands; it may be going on meanwhile.

    Raises:
        InputError: if there is none.
    """
    folder = Path(folder)
    if not (folder / "ledger.db").is_file():
        raise InputError(f"{folder} holds no learning run (no ledger.db)")
    ledger = Ledger(folder / "ledger.db")
    counts, rejected = ledger.counts(), ledger.candidates("rejected")
    done = sorted(folder.glob("generation-*/generation.json"))
    begun = sorted(folder.glob("generation-*"))
    stage = "before the first training"
    if begun:
        current = begun[-1]
        if (current / "generation.json").is_file():
            stage = f"{current.name} is complete"
        elif (current / EXPLORED).is_dir():
            runs = list((current / EXPLORED).iterdir())
            ended = sum((run / "summary.json").is_file() for run in runs)
            stage = f"{current.name}: {ended} of {len(runs)} runs of dynamics begun have ended"
            if ended == len(runs) and (counts["selected"] or counts["submitted"]):
                stage = f"{current.name}: labelling"
        else:
            stage = f"{current.name}: training"
    reasons: dict[str, int] = {}
    for candidate in rejected:
        reasons[candidate.reason] = reasons.get(candidate.reason, 0) + 1
    outcome = folder / "learning.json"
    last = read_json(outcome) if outcome.is_file() else {}
    ended = last.get("reason", "going on") != "going on"
    return {
        "stage": stage,
        "candidates": counts,
        "rejected because": reasons,
        "generations complete": len(done),
        "outcome": last["reason"] if ended else _is_going_on(folder),
        "seconds": read_json(folder / "time.json") if (folder / "time.json").is_file() else {},
    }


def _is_going_on(folder: Path) -> str:
    return "going on" if is_held(folder) else "no process is at work: go on with --resume"
