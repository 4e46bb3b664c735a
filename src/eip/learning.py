"""Active learning from a configuration: what `eip learn` does, and the report it leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import chemical_symbols
from rich.table import Table

from eip import plots
from eip.active_learning.labelers import make_labeler
from eip.active_learning.loop import LearningResult, LearningRun, TrainingTask
from eip.config import (
    Config,
    DataConfig,
    LearningConfig,
    config_yaml,
)
from eip.data import FrameStore, open_frames, read_structures, split_indices
from eip.data.kept import kept_frames
from eip.data.store import write_store
from eip.errors import InputError
from eip.executors import Pool
from eip.files import write_whole
from eip.run_folder import RunFolder
from eip.workflow import Say, nobody, plot_dynamics, run_of, train_model

#: What a run that goes on may be told anew: bounds and where it runs, not what it does.
_FREE_KEYS = frozenset(
    f"learn.{key}"
    for key in ("generations", "max_labels", "max_hours", "executor", "workers", "retries")
)


def learn(
    config: LearningConfig, *, resume: bool = False, progress: bool = True, say: Say = nobody
) -> LearningResult:
    """Runs the loop in ``config.run_dir`` until a stop rule fires, and writes its report.

    Raises:
        InputError: if the folder is in use (or, with ``resume``, holds a run of other settings),
            files are wrong or nothing can be labelled.
        InterruptedError: if the user stopped a training.
    """
    folder = config.run_dir
    settings = config.learn
    starts = _starts(config)
    labeler = make_labeler(config.learn.labeler, **config.learn.labeler_options)
    Pool(settings.executor, settings.workers, retries=settings.retries)  # refused before all else
    with run_of(config, "learn", resume=resume, free=_FREE_KEYS) as kept:
        run = LearningRun(
            folder,
            settings,
            starts,
            labeler,
            lambda task: _train(config, task, progress),
            _base(config, kept),
            progress,
            say,
        )
        if not kept.begun:
            write_whole(folder / "config.yaml", config_yaml(config, folder))
        result = run.run()
        write_report(folder, result)
    say(result_table(result))
    return result


def plan(config: LearningConfig) -> Table:
    """What a run would do, and whether its parts are there; computes nothing.

    Raises:
        InputError: as `learn`, as far as it can be known beforehand.
    """
    starts = _starts(config)
    settings = config.learn
    labeler = make_labeler(config.learn.labeler, **config.learn.labeler_options)
    Pool(settings.executor, settings.workers, retries=settings.retries)  # refused before all else
    base = _base(config)
    run = LearningRun(config.run_dir, settings, starts, labeler, lambda task: task.run_dir)
    walkers = run.walkers(0)
    table = Table(title="the plan", show_header=False)
    table.add_row("folder", str(config.run_dir))
    table.add_row("starts", ", ".join(f"{n} ({len(a)} atoms)" for n, a in starts.items()))
    table.add_row("labelled frames to begin with", f"{len(base[0])} + {len(base[1])} to validate")
    if not base[0]:
        table.add_row("frames made and labelled first", str(settings.initial))
    table.add_row("generations", f"at most {settings.generations}")
    table.add_row(
        "dynamics of each",
        f"{len(walkers)} runs of {settings.length_ps:g} ps, "
        f"{sum(w.settings.steps for w in walkers):,} steps together",
    )
    most = settings.initial * (not base[0]) + settings.labels * (settings.generations - 1)
    if settings.max_labels is not None:
        most = min(most, settings.max_labels)
    table.add_row("labels", f"at most {most}, by {labeler.name}")
    table.add_row("where", f"{settings.executor}, {settings.workers} workers")
    return table


def _starts(config: LearningConfig) -> dict[str, Atoms]:
    """Every frame of the start files, by a name that stays the same."""
    out: dict[str, Atoms] = {}
    for path in config.learn.starts:
        frames = list(read_structures(path))
        for index, (_, atoms) in enumerate(frames):
            name = path.stem if len(frames) == 1 else f"{path.stem}{index}"
            if name in out:
                raise InputError(f"two starts are named {name}: rename {path}")
            out[name] = atoms
    return out


def _base(config: LearningConfig, run: RunFolder | None = None) -> tuple[list[Atoms], list[Atoms]]:
    """Frames that are labelled already, as they are split; kept in the run's folder, if any."""
    data = config.data
    if not data.train:
        return [], []

    def frames(name: str, paths: Sequence[Path]) -> FrameStore:
        needed, labels = ["energy", "forces"], data.label_keys()
        if run is None:
            return open_frames(paths, labels, require=needed)
        return kept_frames(paths, labels, run.path / "data" / name, needed, begun=run.begun)

    store = frames("train", data.train)
    if isinstance(data.validation, list):
        held_out = frames("validation", data.validation)
        return [f.to_atoms() for f in store], [f.to_atoms() for f in held_out]
    train, validation = split_indices(
        len(store), data.validation, data.split_seed, data.split, store.groups
    )
    return (
        [store[int(i)].to_atoms() for i in train],
        [store[int(i)].to_atoms() for i in validation],
    )


def _element_energies(config: LearningConfig) -> dict[str, float] | None:
    """Those given, and those of isolated atoms among the frames that were labelled already."""
    data = config.data
    found = {}
    if data.train:
        store = open_frames(data.train, data.label_keys(), config.run_dir / "data")
        found = {chemical_symbols[z]: e for z, e in store.isolated_atoms.items()}
    return found | (data.element_energies or {}) or None


def _train(config: LearningConfig, task: TrainingTask, progress: bool) -> Path:
    """A generation's training: the configuration's, on the generation's frames."""
    data = {
        "train": [task.train],
        "validation": [task.validation],
        "element_energies": _element_energies(config),
    }
    for name in ("test", "ood"):
        if paths := getattr(config.data, name):
            # As a store: their keys and units are the user's, those of our own files are not.
            store = config.run_dir / "data" / name
            if not (store / "store.json").exists():
                write_store(iter(open_frames(paths, config.data.label_keys())), store)
            data[name] = [store]
    own = Config(
        run_dir=task.run_dir,
        data=DataConfig(**data),
        model=config.model,
        training=config.training.model_copy(update={"seed": task.seed}),
    )
    run = train_model(own, resume=True, progress=progress)
    if run.model is None:
        raise InterruptedError("stopped while training")
    return run.model


# --- report --------------------------------------------------------------------------------------


def write_report(folder: Path, result: LearningResult) -> None:
    """learning.md, learning.png and dynamics.png (the paper's Fig. 4) in the run's folder."""
    write_whole(folder / "learning.md", _markdown(result, folder))
    labels = [g.labels for g in result.generations]
    error = [1000.0 * g.metrics.get("force_mae", float("nan")) for g in result.generations]
    figure = plots.learning(
        labels,
        error,
        [g.stable_ps for g in result.generations],
        {k: [g.candidates[k] / max(1, g.seen[k]) for g in result.generations]
         for k in result.generations[0].seen},
        result.seconds,
    )  # fmt: skip
    plots.save_figure(figure, folder / "learning.png")
    shown = {}
    for g in _ends(result.generations):
        for kind in (False, True):
            of_kind = [r for r in g.runs if r["udd"] is kind]
            if of_kind:
                name = f"{'UDD' if kind else 'MD'}, generation {g.generation}"
                shown[name] = (Path(of_kind[0]["folder"]), of_kind[0]["ending"])
    plot_dynamics(shown, folder / "dynamics.png")


def _ends(generations: Sequence[Any]) -> list[Any]:
    """The first and the last: more would hide each other."""
    return [generations[0]] if len(generations) == 1 else [generations[0], generations[-1]]


_COLUMNS = (
    "generation", "labels", "force MAE, meV/Å", "stable MD", "shortest, ps", "MD uncertain",
    "UDD uncertain", "selected", "labelled", "rejected",
)  # fmt: skip


#: For the width of a terminal.
_SHORT = ("gen", "labels", "MAE, meV/Å", "stable", "ps", "MD", "UDD", "sel", "lab", "rej")


def _rows(result: LearningResult) -> list[list[str]]:
    rows = []
    for g in result.generations:
        md = [r for r in g.runs if not r["udd"]]

        def share(kind: str, g: Any = g) -> str:
            return f"{g.candidates[kind] / max(1, g.seen[kind]):.1%}" if kind in g.seen else "–"

        rows.append(
            [
                str(g.generation),
                str(g.labels),
                f"{1000 * g.metrics.get('force_mae', float('nan')):.1f}",
                f"{sum(r['ending'] == 'finished' for r in md)} of {len(md)}",
                f"{g.stable_ps:.3g}",
                share("md"),
                share("udd"),
                str(g.selected),
                str(g.labelled),
                str(g.rejected),
            ]
        )
    return rows


def result_table(result: LearningResult) -> Table:
    """The generations, for a terminal."""
    table = Table(*_SHORT, title=f"learning: {result.reason}")
    for row in _rows(result):
        table.add_row(*row)
    return table


def _markdown(result: LearningResult, folder: Path) -> str:
    model = os.path.relpath(result.model, folder)
    lines = [
        "# Active learning\n",
        f"\nEnded: {result.reason}. {result.labels} labels; model: `{model}`.\n\n",
        f"| {' | '.join(_COLUMNS)} |\n",
        f"| {' | '.join(['---'] * len(_COLUMNS))} |\n",
        *(f"| {' | '.join(row)} |\n" for row in _rows(result)),
        "\n![learning](learning.png)\n\n![dynamics](dynamics.png)\n",
        "\n## Where the time went\n\n| | s |\n| --- | --- |\n",
        *(f"| {name} | {seconds:.0f} |\n" for name, seconds in result.seconds.items()),
        f"\nBeyond training, dynamics and labels: {result.overhead_fraction:.1%}.\n",
        "\n## How each run of dynamics ended\n\n| generation | run | ending | ps |\n",
        "| --- | --- | --- | --- |\n",
        *(
            f"| {g.generation} | {r['name']} | {r['ending']}: {r['reason']} | "
            f"{r['time_ps']:.3g} |\n"
            for g in result.generations
            for r in g.runs
        ),
        "\nWhat was selected, from where and how uncertain it was:\n"
        "`ase db ledger.db -c candidate,state,generation,origin,sigma`\n",
    ]
    return "".join(lines)


def status_table(found: Mapping[str, Any]) -> Table:
    """What `eip.active_learning.loop.status` says, for a terminal."""
    table = Table(title="learning", show_header=False)
    for key, value in found.items():
        if isinstance(value, Mapping):
            text = ", ".join(
                f"{k}: {v:.0f} s" if key == "seconds" else f"{v} {k}" for k, v in value.items() if v
            )
            value = text or "–"
        table.add_row(key, str(value))
    return table
