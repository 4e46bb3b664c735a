"""Train → explore → select → label → train again, until a stop rule fires; killed at any moment,
it goes on where it was.

With `LearningSettings.overlap` the labels of a generation are computed while the next one trains
and explores, and are trained on in the one after that: workers never wait for a training, nor a
training for labels. The last generation waits for all. What is trained on hangs on the number of
the generation alone, never on when a label came.

Folder of a run:

    ledger.db               every candidate and what became of it (eip.active_learning.ledger)
    labels/<key>/           scratch of a calculation; label.npz is there once it is whole
    checks.xyz              labelled frames that check the potential and were never trained on
    generation-000/         train.xyz, validation.xyz, model/ (a training run), explore/<walker>/
                            (runs of dynamics), price.json (of its labels, before they are chosen),
                            generation.json once the generation is complete
    time.json               seconds spent on what, resumes included
    tasks.csv               when each training, run of dynamics and label was worked on
    learning.json           the outcome, written after each generation

What a step needs is read from these files alone, so that nothing in memory has to survive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from rich.console import Console
from rich.progress import track

from eip.active_learning.candidates import Proposal
from eip.active_learning.checks import DONE, Check, check_of, verdict_of
from eip.active_learning.exploration import (
    Walker,
    WalkerOutcome,
    explore,
    frames_of,
    walkers_of,
)
from eip.active_learning.explored import Explored, explored
from eip.active_learning.fragments import kept_whole, with_fragments
from eip.active_learning.labelers import Labeler, LabelFailure, LabelLimits, check_label
from eip.active_learning.labelers.limits import with_energy_window
from eip.active_learning.labelling import has_label, judged, label_one, write_frames, written_frames
from eip.active_learning.ledger import Candidate, Ledger, content_key, summary_text
from eip.active_learning.price import Price, fitted_price
from eip.active_learning.results import (
    EXPLORED,
    Generation,
    LearningResult,
    as_json,
    folder_of,
)
from eip.active_learning.selection import (
    Window,
    choose,
    unsound,
    window,
)
from eip.active_learning.settings import LearningSettings
from eip.active_learning.tasks import Kind, TaskTime, note, read_tasks
from eip.errors import InputError
from eip.executors import Outcome, Pool
from eip.files import json_text, write_whole
from eip.model_file import load_model, read_model_info, save_model
from eip.potential import Potential
from eip.run_folder import read_json

Say = Callable[[object], None]


@dataclass(frozen=True)
class TrainingTask:
    """What the loop asks of whoever trains.

    Attributes:
        run_dir: where; a run that was begun there is to be gone on with.
        train, validation: extended XYZ with energy (eV) and forces (eV/Å).
        seed: of weights and order.
    """

    run_dir: Path
    train: Path
    validation: Path
    seed: int


@dataclass(frozen=True)
class _Labels:
    """Labels that workers compute: of what, where, which were there already, by whom."""

    candidates: dict[str, Candidate]
    folders: dict[str, Path]
    kept: set[str]
    pool: Pool
    outcomes: Iterator[Outcome]


#: Seconds of work that are not booked yet while tasks end: so many a kill may cost, at least.
_BOOKED_S = 10.0
#: Trains and returns the model file. Raises InterruptedError if the user stopped it.
Trainer = Callable[[TrainingTask], Path]


@dataclass
class LearningRun:
    """A learning run in a folder, new or begun.

    Args:
        folder: see the module.
        settings: see there.
        starts: structures that dynamics starts from, with a name for each.
        labeler: the reference method.
        train: see `Trainer`.
        base: frames that are labelled already, for training and for validation.
        first: a model file that the first generation explores with where there is no labelled
            frame to train on, none in ``base`` and none that is asked for (``settings.initial`` 0).
        progress: shows progress bars.
        say: is told what happens.
    """

    folder: Path
    settings: LearningSettings
    starts: Mapping[str, Atoms]
    labeler: Labeler
    train: Trainer
    base: tuple[Sequence[Atoms], Sequence[Atoms]] = ((), ())
    first: Path | None = None
    progress: bool = True
    say: Say = lambda message: None
    _seconds: dict[str, float] = field(default_factory=dict)
    _ahead: _Labels | None = None

    def run(self) -> LearningResult:
        """Goes on until a stop rule fires.

        Raises:
            InputError: if nothing can be labelled, or settings and structures do not fit.
            InterruptedError: if the user stopped it; calling it again goes on.
        """
        if not self.starts:
            raise InputError("learning needs at least one structure to start from, got none")
        for name, start in self.starts.items():
            try:
                self.labeler.check(start)
            except InputError as error:
                raise InputError(f"start {name}: {error}") from error
        if self._has_no_frames and self.first is None:
            raise InputError(
                "learning needs something to begin with: labelled frames (data.train), some that "
                "it makes itself (learn.initial), or a model (model.start_from)"
            )
        for name, reason in kept_whole(self.starts, self.settings).items():
            self.say(f"Frames of {name} are labelled whole: {reason}.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(self.folder / "ledger.db")
        self._seconds = self._read("time.json") or {
            name: 0.0 for name in ("training", "exploration", "labelling", "other")
        }
        self._stage, self._mark = "other", time.monotonic()
        try:
            self._make_initial_frames()
            return self._generations()
        finally:
            self._spend()
            if self._ahead is not None:
                self._ahead.pool.close()

    def _generations(self) -> LearningResult:
        generations: list[Generation] = []
        while True:
            done = self._read_generation(len(generations))
            generation = done or self._generation(len(generations))
            generations.append(generation)
            self._spend()
            result = LearningResult(
                generations,
                self._path(generation.generation) / "model" / "model.eip",
                generation.stop,
                self._labels(),
                dict(self._seconds),
            )
            write_whole(self.folder / "learning.json", json_text(as_json(result, self.folder)))
            if generation.stop:
                return result

    # --- generations -----------------------------------------------------------------------------

    def _generation(self, index: int) -> Generation:
        settings, folder = self.settings, self._path(index)
        train, validation, labels = self._frames(index)
        with self._timed("training"):
            model = self._trained(index) if train else self._taken_over(index)
        with self._timed("exploration"):
            outcomes = self._explore(index, model)
        self._finish_labels(index - 1)

        potential = load_model(model)
        bounds = window(self._first_frames(), settings.lower, settings.upper, settings.target)
        starts = {w.name: w.start for w in walkers_of(self.starts, settings, index)}
        found = explored(folder / EXPLORED, outcomes, starts, bounds, settings, index)
        check = self._check(index, potential, found.drawn, untrained=not train)
        stable = all(o.ending == "finished" for o in outcomes if not o.udd)
        verdict = self._verdict(index, check, len(train), stable)
        stop = self._stop(index, stable, found, verdict)
        selected: list[str] = []
        # Labels are to be trained on before it ends.
        late = [c.atoms for c in self._own(index - 1) if c.state == "labelled"]
        if not stop:
            cut = partial(self._cut, potential=potential, bounds=bounds, starts=starts)
            selected = self._select(index, potential, found, [*train, *late], cut)
            if not selected:
                stop = _nothing_to_label(found, bounds)
        if late:
            stop = ""
        if selected and not settings.overlap:
            self._label(selected)
        wanted = set(selected)
        chosen = [c for c in self.ledger.candidates() if c.key in wanted]
        ended = chosen
        if settings.overlap:
            ended = self._own(index - 1) if index else []
        counts = [c.state for c in ended]
        price = self._price(index) if chosen else None
        expected = None if price is None else price.of(np.array([len(c.atoms) for c in chosen]))
        generation = Generation(
            generation=index,
            training_frames=len(train),
            validation_frames=len(validation),
            labels=labels,
            metrics=read_model_info(model)["info"].get("metrics", {}),
            lower=bounds.lower,
            upper=bounds.upper,
            runs=[vars(o) for o in outcomes],
            seen=found.seen,
            candidates=found.within,
            extrapolating=found.beyond,
            above=found.above,
            unsound=found.unsound,
            selected=len(selected),
            labelled=counts.count("labelled") + counts.count("used"),
            rejected=counts.count("rejected"),
            stable=stable,
            stable_ps=min(o.time_ps for o in outcomes if not o.udd),
            stop=stop,
            check=None if check is None else check.to_dict(),
            verdict=verdict,
            fragments=sum(c.cut is not None for c in chosen),
            price=None if price is None else asdict(price),
            expected_seconds=None if expected is None else float(expected.sum()),
        )
        write_whole(folder / "generation.json", json_text(vars(generation)))
        self._tell(generation)
        return generation

    @property
    def _has_no_frames(self) -> bool:
        """Whether the first generation has none to train on."""
        return self.settings.initial == 0 and not self.base[0]

    def _frames(self, index: int) -> tuple[list[Atoms], list[Atoms], int]:
        """What a generation trains on and validates with, on disk, too; labels spent up to it."""
        # What was selected in generations before this one is trained on.
        known = index - 1 if self._overlaps(index) else index
        if known == index:
            self._finish_labels(index - 1)
        elif open_ := self._open(index - 1):
            self._ahead = self._begin_labels(open_)
        # Not those of this very generation: it may have been stopped while labelling.
        labelled = [c for c in self.ledger.candidates("labelled") if c.generation < index]
        fresh = [c for c in labelled if not c.checks and c.generation < known]
        if all(path.is_file() for path in self._files(index)):
            fresh = []  # its training has begun, with fewer generations ahead or more
        limits = self._limits(known)
        # The first ones came before there was a scale to hold them against.
        reasons = {c.key: check_label(c.atoms, limits) for c in fresh}
        believed = [key for key, reason in reasons.items() if reason is None]
        disbelieved = {k: f"label not believed: {r}" for k, r in reasons.items() if r is not None}
        self.ledger.use(believed, index, disbelieved)
        train, validation = self._training_set(index)
        labels = sum(c.used_in <= index for c in self.ledger.candidates("used"))
        labels += sum(c.checks for c in labelled)
        if not train:
            self.say(f"Generation {index}: explores by {self.first}; {labels} labels so far.")
            return train, validation, labels
        for path, frames in zip(self._files(index), (train, validation), strict=True):
            write_frames(frames, path)
        self.say(
            f"Generation {index}: training on {len(train)} frames, validating on "
            f"{len(validation)}; {labels} labels so far."
        )
        return train, validation, labels

    def _files(self, index: int) -> tuple[Path, Path]:
        """Frames to train on and to validate with."""
        return self._path(index) / "train.xyz", self._path(index) / "validation.xyz"

    def _trained(self, index: int) -> Path:
        """The potential of a generation; that of the one before where nothing has come since."""
        folder, before = self._path(index), self._path(index - 1)
        files, earlier = self._files(index), self._files(index - 1)
        model = folder / "model" / "model.eip"
        if model.is_file():
            return model
        # The first ones may have had none.
        trained = index and all(path.is_file() for path in earlier)
        if trained and all(
            one.read_bytes() == other.read_bytes()
            for one, other in zip(files, earlier, strict=True)
        ):
            self.say(f"Generation {index}: nothing new to train on; the potential stays.")
            model.parent.mkdir(exist_ok=True)
            write_whole(model, (before / "model" / model.name).read_bytes())
            return model
        begun = time.time()
        self.train(TrainingTask(model.parent, *files, seed=self.settings.seed + index))
        self._note("training", folder.name, begun, time.time() - begun)
        return model

    def _first_frames(self) -> list[Atoms]:
        """That forces are measured by: the first training set, else the first dynamics."""
        if not self._has_no_frames:
            return written_frames(self._files(0)[0])
        first = self._path(0) / EXPLORED
        runs = [w.name for w in walkers_of(self.starts, self.settings, 0) if not w.udd]
        frames = [atoms for name in runs for atoms, _, _ in frames_of(first / name)]
        if not frames:
            raise InputError(
                f"{first}: no frame of the first dynamics has forces and uncertainties that are "
                f"numbers: {self.first} cannot be explored by from these starts"
            )
        # Some may have collapsed: what forces usually are is said by the others.
        sizes = np.array([np.square(of.get_forces(apply_constraint=False)).mean() for of in frames])
        return [frames[k] for k in np.flatnonzero(sizes <= np.median(sizes))]

    def _stop(self, index: int, stable: bool, found: Explored, verdict: str) -> str:
        """Why the run ends with a generation, before it is known what is worth a label."""
        if self.settings.target is None:
            done = self._converged(stable, found)
        else:
            done = verdict if verdict.startswith(DONE) else ""
        # What was selected before a kill is paid for, whatever the clock says by now.
        begun = any(c.state != "proposed" for c in self._own(index))
        return done or ("" if begun else self._out_of_budget(index))

    def _taken_over(self, index: int) -> Path:
        """The model that a run without frames begins with, as a generation's."""
        model = self._path(index) / "model" / "model.eip"
        if model.is_file():
            return model
        assert self.first is not None
        potential = load_model(self.first)
        must_say_uncertainty(potential, self.first, next(iter(self.starts.values())))
        # Its measures were of other frames, and so were the units of its data.
        info = {k: v for k, v in read_model_info(self.first)["info"].items() if k != "metrics"}
        info.get("config", {}).get("data", {}).pop("labels", None)
        model.parent.mkdir(parents=True, exist_ok=True)
        save_model(potential, model, info)
        return model

    def _converged(self, stable: bool, found: Explored) -> str:
        kind = "udd" if self.settings.udd else "md"
        ratio = (found.within[kind] + found.above[kind]) / max(1, found.seen[kind])
        if stable and ratio <= self.settings.candidate_ratio:
            return (
                f"converged: every run of MD is stable, and {ratio:.1%} of the frames seen under "
                f"{kind.upper()} are uncertain"
            )
        return ""

    def _verdict(self, index: int, check: Check | None, frames: int, stable: bool) -> str:
        """See `eip.active_learning.checks.verdict`; "" without a target.

        Args:
            frames: that the potential was trained on.
        """
        if self.settings.target is None:
            return ""
        earlier = [self._read(f"{self._path(i).name}/generation.json") for i in range(index)]
        curve = [
            (g["training_frames"], g["check"]["force_rmse"]) for g in earlier if g.get("check")
        ]
        return verdict_of(check, self.settings.target, stable, frames, curve)

    def _out_of_budget(self, index: int) -> str:
        settings = self.settings
        if index + 1 >= settings.generations:
            return f"the last of {settings.generations} generations"
        if settings.max_labels is not None and self._labels() >= settings.max_labels:
            return f"{self._labels()} labels are spent, the bound is {settings.max_labels}"
        hours = sum(self._seconds.values()) / 3600.0
        if settings.max_hours is not None and hours >= settings.max_hours:
            return f"{hours:.2g} hours are spent, the bound is {settings.max_hours:.2g}"
        return ""

    def _tell(self, g: Generation) -> None:
        ended = [r["ending"] for r in g.runs if not r["udd"]]
        self.say(
            f"Generation {g.generation}: {ended.count('finished')} of {len(ended)} runs of MD are "
            f"stable (shortest {g.stable_ps:.3g} ps); "
            + ", ".join(
                f"{g.uncertain(k)} of {g.seen[k]} frames under {k.upper()} uncertain"
                for k in g.seen
            )
            + f" (σ from {g.lower:.3g} eV/Å; {sum(g.above.values())} past {g.upper:.3g}, and so "
            f"past use; {sum(g.extrapolating.values())} with an atom beyond what was seen); "
            f"{g.selected} selected, {g.labelled} labelled, {g.rejected} rejected."
            + (f" Stop: {g.stop}." if g.stop else "")
        )
        if g.verdict and g.verdict != g.stop:
            self.say(f"Generation {g.generation}: {g.verdict}.")

    # --- frames ----------------------------------------------------------------------------------

    def _make_initial_frames(self) -> None:
        """Rattled starts, each a candidate like any other, labelled before the first training."""
        settings = self.settings
        if self.base[0] or settings.initial == 0:
            return
        if not self.ledger.candidates(generation=-1):
            rng = np.random.default_rng(settings.seed)
            starts = list(self.starts.values())
            frames, left_out = [], []
            for k in range(settings.initial):
                start = starts[k % len(starts)]
                atoms = start.copy()
                # The near surroundings and the wider ones.
                size = settings.rattle if (k // len(starts)) % 2 else settings.rattle / 3.0
                atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)
                reason = unsound(atoms, start, settings.min_distance_ratio, None)
                if reason is None:
                    frames.append(Proposal(atoms, "initial", float("nan")))
                else:
                    left_out.append(reason)
            if left_out:
                self.say(
                    f"{len(left_out)} of {settings.initial} rattled starts are left out "
                    f"(learn.rattle, learn.min_distance_ratio); the first: {left_out[0]}"
                )
            self.ledger.propose(frames, -1)
        proposed = [c.key for c in self.ledger.candidates("proposed", generation=-1)]
        if proposed:
            self.ledger.select(proposed)
        self._finish_labels(-1)

    def _training_set(self, index: int) -> tuple[list[Atoms], list[Atoms]]:
        train, validation = list(self.base[0]), list(self.base[1])
        share = self.settings.validation
        used = [c for c in self.ledger.candidates("used") if c.used_in <= index]
        for candidate in used:
            # By the hash: the same frame is on the same side in every generation.
            held_out = int(candidate.key[1:9], 16) / 16**8 < share
            (validation if held_out else train).append(candidate.atoms)
        # Few frames may all fall on one side.
        while len(validation) < (2 if len(train) > 4 else 1) and len(train) > 1:
            validation.append(train.pop())
        while not train and len(validation) > 1:
            train.append(validation.pop())
        if self._has_no_frames and len(train) + len(validation) < 2:
            return [], []  # too few to train on: the model that it began with goes on
        if not train or not validation:
            raise InputError(
                f"generation {index} has {len(train)} frames to train on and {len(validation)} to "
                f"validate with; set learn.initial or learn.labels higher "
                f"({summary_text(self.ledger.counts())})"
            )
        return train, validation

    # --- exploration -----------------------------------------------------------------------------

    def _explore(self, index: int, model: Path) -> list[WalkerOutcome]:
        folder = self._path(index) / EXPLORED
        walkers = walkers_of(self.starts, self.settings, index)
        parts = [
            walkers[k : k + self.settings.together]
            for k in range(0, len(walkers), self.settings.together)
        ]
        tasks = {_names(part): (model, part, folder) for part in parts}
        found: dict[str, WalkerOutcome] = {}
        words = f"Generation {index}: exploring"
        with self._pool() as pool:
            for outcome in self._shown(pool.run(explore, tasks), words, len(tasks)):
                self._note_outcome("dynamics", outcome)
                if outcome.error is not None:
                    raise outcome.error
                found |= {one.name: one for one in outcome.value}
        return [found[w.name] for w in walkers]

    def _check(
        self, index: int, potential: Potential, drawn: Sequence[Proposal], *, untrained: bool
    ) -> Check | None:
        """Labels frames of MD that nothing is trained on, and what they say of the potential."""
        if self.settings.target is None:
            return None
        own = self._checks(index)
        if not own:
            self.ledger.propose(drawn, index, checks=True)
            own = self._checks(index)
        fresh = [c.key for c in own if c.state == "proposed"]
        begun = [c.key for c in own if c.state in ("selected", "submitted")]
        if self.settings.max_labels is not None:
            fresh = fresh[: max(0, self.settings.max_labels - self._labels() - len(begun))]
        self.ledger.select(fresh)
        keys = begun + fresh
        if keys:
            self._label(keys)
        every = [c.atoms for c in self.ledger.candidates("labelled") if c.checks]
        write_frames(every, self.folder / "checks.xyz")
        labelled = [c.atoms for c in self._checks(index) if c.state == "labelled"]
        failed = sum(c.state == "rejected" for c in self._checks(index))
        return check_of(potential, labelled, failed, self.settings.confidence, shifted=untrained)

    def _checks(self, index: int) -> list[Candidate]:
        return [c for c in self.ledger.candidates(generation=index) if c.checks]

    def _select(
        self,
        index: int,
        potential: Potential,
        found: Explored,
        train: Sequence[Atoms],
        cut: Callable[[list[Proposal]], list[Proposal]],
    ) -> list[str]:
        """Proposes all, selects some; what was selected before a kill stays.

        Args:
            cut: makes fragments of what is to be labelled as such.
        """
        settings = self.settings
        if begun := [c.key for c in self._own(index) if c.state != "proposed"]:
            return begun
        # Anew after a kill, too: bounds may have been moved since.
        self.ledger.propose(cut(found.candidates), index)
        own = self._own(index)
        budget = settings.labels
        if settings.max_labels is not None:
            budget = min(budget, settings.max_labels - self._labels())
        if not own or budget <= 0:
            return []
        frames = [c.atoms for c in own]
        chosen = choose(frames, train, potential, settings, index, budget, self._price(index))
        keys = [own[i].key for i in chosen]
        self.ledger.select(keys)
        return keys

    def _cut(
        self,
        candidates: list[Proposal],
        potential: Potential,
        bounds: Window,
        starts: Mapping[str, Atoms],
    ) -> list[Proposal]:
        """With fragments in place of frames of which only little is uncertain."""
        radius = self.settings.fragment_radius
        if radius is None:
            return candidates
        # What checks the potential is not trained on, not in pieces either.
        checks = {c.key for c in self.ledger.candidates() if c.checks}
        candidates = [c for c in candidates if content_key(c.atoms) not in checks]
        kept = [self.starts[name] for name in kept_whole(self.starts, self.settings)]
        whole = {run for run, start in starts.items() if any(start is one for one in kept)}
        return with_fragments(candidates, potential, bounds, radius, whole)

    def _own(self, index: int) -> list[Candidate]:
        """What was proposed in a generation to be trained on."""
        return [c for c in self.ledger.candidates(generation=index) if not c.checks]

    def _price(self, index: int) -> Price:
        """Of this generation's labels; written down before it has a say in what is chosen.

        A run that was killed has other times than one that was not.
        """
        kept = self._path(index) / "price.json"
        if (values := self._read(f"{kept.parent.name}/{kept.name}")) is not None:
            return Price(**values)
        asked = self.ledger.candidates("submitted", "labelled", "used", "rejected")
        sizes = {c.key: len(c.atoms) for c in asked}
        tasks = [task for task in read_tasks(self.folder / "tasks.csv") if task.name in sizes]
        price = fitted_price([sizes[task.name] for task in tasks], [t.seconds for t in tasks])
        write_whole(kept, json_text(asdict(price)))
        return price

    # --- labels ----------------------------------------------------------------------------------

    def _overlaps(self, index: int) -> bool:
        """Whether a generation trains while the labels of the one before it are computed."""
        first = 1 if self._has_no_frames else 0
        return self.settings.overlap and first < index < self.settings.generations - 1

    def _open(self, generation: int) -> list[Candidate]:
        """What was selected and has no label yet."""
        return self.ledger.candidates("selected", "submitted", generation=generation)

    def _finish_labels(self, generation: int) -> None:
        """Waits for what is being labelled; labels what a kill left over."""
        begun, self._ahead = self._ahead, None
        if begun is None and (open_ := self._open(generation)):
            begun = self._begin_labels(open_)
        if begun is not None:
            self._take(begun)
        none = not (self.base[0] or self.ledger.candidates("labelled", "used"))
        if none and not (generation < 0 and self._has_no_frames):
            reasons = {c.reason for c in self.ledger.candidates("rejected")}
            raise InputError(
                f"no label could be made: {'; '.join(sorted(reasons)) or 'none asked'}"
            )

    def _label(self, keys: Sequence[str]) -> None:
        wanted = set(keys)
        open_ = [c for c in self.ledger.candidates("selected", "submitted") if c.key in wanted]
        if open_:
            self._take(self._begin_labels(open_))

    def _begin_labels(self, open_: Sequence[Candidate]) -> _Labels:
        """Workers compute them from here on."""
        self.ledger.submit([c.key for c in open_])
        folders = {c.key: self.folder / "labels" / c.key for c in open_}
        pool = self._pool()
        return _Labels(
            {c.key: c for c in open_},
            folders,
            # Finished before a kill: they take no time now.
            {key for key, folder in folders.items() if has_label(folder)},
            pool,
            pool.run(label_one, {c.key: (self.labeler, c.atoms, folders[c.key]) for c in open_}),
        )

    def _take(self, labels: _Labels) -> None:
        """Enters into the ledger what has become of each, as it comes."""
        limits = self._limits(min(c.generation for c in labels.candidates.values()))
        lost: dict[str, str] = {}
        done = 0
        words = f"Labelling with {self.labeler.name}"
        with self._timed("labelling"), labels.pool:
            for outcome in self._shown(labels.outcomes, words, len(labels.candidates)):
                key, error = outcome.key, outcome.error
                if key not in labels.kept:
                    self._note_outcome("label", outcome)
                atoms, folder = labels.candidates[key].atoms, labels.folders[key]
                label = judged(outcome, atoms, folder, limits)
                if isinstance(label, Atoms):
                    self.ledger.label(key, label)
                elif error is None or isinstance(error, LabelFailure):
                    self.ledger.reject(key, label)
                else:
                    lost[key] = label
                    continue
                done += 1
        if lost and not done:
            # It was hardly the structures: they stay submitted, for when the run is resumed.
            raise InputError(
                f"no worker finished any of {len(lost)} labels (the first: "
                f"{next(iter(lost.values()))}); nothing was rejected: set the executor right and "
                "go on with --resume"
            )
        for key, reason in lost.items():
            self.ledger.reject(key, reason)

    def _limits(self, generation: int) -> LabelLimits:
        """Of a label that is believed; energies by what earlier generations have found.

        Not by the labels of this one: how many of them there are depends on where it was killed.
        """
        s = self.settings
        limits = LabelLimits(max_force=s.max_force, max_net_force=s.max_net_force)
        found = self.ledger.candidates("used", "labelled")
        known = [*self.base[0], *(c.atoms for c in found if c.generation < generation)]
        return limits if len(known) < 10 else with_energy_window(limits, known)

    def _labels(self) -> int:
        """Labels that were believed, in all generations."""
        counts = self.ledger.counts()
        return counts["labelled"] + counts["used"]

    # --- help ------------------------------------------------------------------------------------

    def _pool(self) -> Pool:
        s = self.settings
        return Pool(s.executor, s.workers, retries=s.retries)

    def _shown(self, outcomes: Iterator[Outcome], words: str, total: int) -> Iterator[Outcome]:
        """As they come, with a progress bar, if there are to be some; time is booked meanwhile."""
        if self.progress:
            console = Console(stderr=True)
            outcomes = iter(track(outcomes, words, total=total, console=console, transient=True))
        for outcome in outcomes:
            yield outcome
            if time.monotonic() - self._mark > _BOOKED_S:
                self._spend()

    def _note_outcome(self, kind: Kind, outcome: Outcome) -> None:
        self._note(kind, outcome.key, outcome.ended - outcome.seconds, outcome.seconds)

    def _note(self, kind: Kind, name: str, begun: float, seconds: float) -> None:
        note(self.folder / "tasks.csv", TaskTime(kind, name, begun, seconds))

    def _path(self, index: int) -> Path:
        return self.folder / folder_of(index)

    def _read(self, name: str) -> Any:
        path = self.folder / name
        return read_json(path) if path.is_file() else None

    def _read_generation(self, index: int) -> Generation | None:
        values = self._read(f"{self._path(index).name}/generation.json")
        if values is None:
            return None
        done = Generation(**values)
        if done.stop and not self._stands(done):
            kept = self._path(index) / "generation.json"
            os.replace(kept, kept.with_name("generation.before.json"))
            return None
        return done

    def _stands(self, done: Generation) -> bool:
        """Whether what ended a run ends it still; a budget is no state of the data."""
        target = self.settings.target
        if done.stop.startswith("converged"):
            return target is None
        if done.stop.startswith(DONE):
            assert done.check is not None
            return target is None or not Check(**done.check).missing(target)
        return bool(self._out_of_budget(done.generation))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Time in here is spent on that, whatever ends it."""
        self._spend()
        before, self._stage = self._stage, stage
        try:
            yield
        finally:
            self._spend()
            self._stage = before

    def _spend(self) -> None:
        """Books the time since the last booking."""
        now = time.monotonic()
        self._seconds[self._stage] += now - self._mark
        self._mark = now
        write_whole(self.folder / "time.json", json_text(self._seconds))


def must_say_uncertainty(potential: Potential, model: Path, start: Atoms) -> None:
    """Raises an InputError if a model cannot be explored by."""
    if potential.predict(start).force_uncertainty is None:
        raise InputError(
            f"{model} says no uncertainty of forces, so nothing can be found that it does not "
            "know: begin with labelled frames (data.train) or some that the run makes itself "
            "(learn.initial)"
        )


def _nothing_to_label(found: Explored, bounds: Window) -> str:
    """Why a generation ends without a label, and what may help."""
    told, past = "no frame of this generation is worth a label", sum(found.above.values())
    if not past:
        return told
    return (
        f"{told}: σ of {past} of {sum(found.seen.values())} is past {bounds.upper:.3g} eV/Å "
        "(learn.upper), which only a potential that fails has; begin with more frames "
        "(learn.initial, data.train), colder or shorter runs, or raise learn.upper and --resume"
    )


def _names(walkers: Sequence[Walker]) -> str:
    """Of a task: the first walker's, and how many go with it."""
    others = len(walkers) - 1
    return walkers[0].name + (f" and {others} more" if others else "")
