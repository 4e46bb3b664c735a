"""`eip learn`: active learning from a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from rich.table import Table

from eip.active_learning.exploration import walkers_of
from eip.active_learning.fragments import kept_whole, typical_size
from eip.active_learning.labelers import make_labeler
from eip.active_learning.labelling import check_same_method
from eip.active_learning.ledger import Ledger
from eip.active_learning.loop import LearningRun, TrainingTask, must_say_uncertainty
from eip.active_learning.price import Price
from eip.active_learning.results import LearningResult
from eip.config import Config, DataConfig, LearningConfig, config_yaml
from eip.data import FrameStore, open_frames, read_structures, split_indices
from eip.data.kept import kept_frames
from eip.errors import InputError
from eip.executors import Pool
from eip.files import to_json, write_whole
from eip.kernels.choice import using
from eip.model_file import load_model, read_model_info, save_model
from eip.run_folder import RunFolder, read_json
from eip.simulation.calculator import check_elements
from eip.uncertainty.attached import AttachedPotential
from eip.verbs.learning_report import write_report
from eip.verbs.learning_tables import result_table
from eip.verbs.messages import Log, silent
from eip.verbs.networks import as_begun, network_to_continue
from eip.verbs.runs import configured, run_of
from eip.verbs.train import train

#: What a run that goes on may be told anew: bounds and where it runs, not what it does; and that
#: its labels have no stress after all.
_FREE_KEYS = frozenset(
    (
        *(f"learn.{key}" for key in ("generations", "max_labels", "max_hours", "target")),
        *(f"learn.{key}" for key in ("confidence", "lower", "upper", "executor", "workers")),
        *("learn.retries", "learn.together", "training.stress_weight"),
    )
)


def learn(
    config: LearningConfig | str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    log: Log = silent,
) -> LearningResult:
    """Runs the loop in ``config.run_dir`` until a stop rule fires, and writes its report.

    Raises:
        InputError: if the folder is in use (or, with ``resume``, holds a run of other settings),
            files are wrong or nothing can be labelled.
        InterruptedError: if the user stopped a training.
    """
    config = configured(config, LearningConfig)
    folder, settings = config.run_dir, config.learn
    starts = _starts(config)
    labeler = make_labeler(settings.labeler, **settings.labeler_options)
    Pool(settings.executor, settings.workers, retries=settings.retries)  # refused before all else
    _check_first(config, starts)

    def edited(files: Mapping[str, Sequence[str]]) -> None:
        for start in files.get("learn.starts", ()):
            log(f"{start} has changed since the run was begun: new dynamics start from what it is.")
        if method := files.get("learn.labeler_options"):
            known = Ledger(folder / "ledger.db").candidates("submitted", "labelled", "used")
            check_same_method(labeler, (c.atoms for c in known), folder / "labels", method)

    with (
        using(config.training.kernels, "training.kernels"),
        run_of(config, "learn", resume=resume, free=_FREE_KEYS, edited=edited) as kept,
    ):
        stores = _stores(config, kept)
        run = LearningRun(
            folder,
            settings,
            starts,
            labeler,
            lambda task: _train(config, stores, task, progress),
            _base(config, stores),
            config.model.start_from,
            progress,
            log,
        )
        if not kept.begun:
            write_whole(folder / "config.yaml", config_yaml(config, folder))
        result = run.run()
        write_report(folder, result)
    log(result_table(result))
    return result


def plan(config: LearningConfig) -> Table:
    """What a run would do, and whether its parts are there; computes nothing.

    Raises:
        InputError: as `learn`, as far as it can be known beforehand.
    """
    settings, starts = config.learn, _starts(config)
    labeler = make_labeler(settings.labeler, **settings.labeler_options)
    Pool(settings.executor, settings.workers, retries=settings.retries)  # refused before all else
    _check_first(config, starts)
    base = _base(config, _stores(config))
    walkers = walkers_of(starts, settings, 0)
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
    if not (base[0] or settings.initial):
        table.add_row("begins by exploring with", str(config.model.start_from))
    most = settings.initial * (not base[0]) + settings.labels * (settings.generations - 1)
    if settings.target is not None:
        most += settings.checks * settings.generations
        table.add_row(
            "done when",
            f"{settings.confidence:.0%} of MD's frames err by no more than "
            f"{1e3 * settings.target:g} meV/Å, by {settings.checks} checks a generation",
        )
    if settings.max_labels is not None:
        most = min(most, settings.max_labels)
    table.add_row("labels", f"at most {most}, by {labeler.name}")
    table.add_row("a label's price", _price(config, starts))
    if settings.fragment_radius is not None:
        whole = kept_whole(starts, settings)
        table.add_row(
            "fragments",
            "; ".join(
                f"{name}: none, {whole[name]}"
                if name in whole
                else f"{name}: {typical_size(start, settings.fragment_radius)}"
                for name, start in starts.items()
            ),
        )
    shared = f", up to {settings.together} runs in one" if settings.together > 1 else ""
    late = "; as many label while the next generation trains" if settings.overlap else ""
    table.add_row("where", f"{settings.executor}, {settings.workers} workers{shared}{late}")
    return table


def _price(config: LearningConfig, starts: dict[str, Atoms]) -> str:
    """What labels of whole frames are expected to cost, by those that the folder has already."""
    known = sorted(config.run_dir.glob("generation-*/price.json"))
    price = Price(**read_json(known[-1])) if known else Price()
    sizes = np.unique([len(atoms) for atoms in starts.values()])
    seconds = price.of(sizes)
    if seconds is None:
        return f"{price} of N atoms, until there are labels to say more"
    each = ", ".join(f"{n} atoms {s:.3g} s" for n, s in zip(sizes, seconds, strict=True))
    return f"{price} of N atoms, by {price.labels} labels: {each}"


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


def _check_first(config: LearningConfig, starts: Mapping[str, Atoms]) -> None:
    """Before a label is paid for: can training have the stress that it asks for, and start from the
    model that it is to start from?"""
    alone = [name for name, atoms in starts.items() if not atoms.pbc.all()]
    if config.training.stress_weight and alone:
        raise InputError(
            f"training.stress_weight is {config.training.stress_weight:g}, and labels of "
            f"{alone[0]} have no stress: it is not periodic in three directions"
        )
    path = config.model.start_from
    if path is None:
        return
    potential = load_model(path, device="cpu")
    if as_begun(config).model.uncertainty != AttachedPotential.kind:
        network_to_continue(config, path, potential)
    check_elements(potential, [int(z) for atoms in starts.values() for z in atoms.numbers])
    if not (config.learn.initial or config.data.train):
        must_say_uncertainty(potential, path, next(iter(starts.values())))


def _stores(config: LearningConfig, run: RunFolder | None = None) -> dict[str, FrameStore]:
    """Each set of frames that the configuration names; kept in the run's folder, if any."""
    data = config.data
    files = {"train": data.train, "test": data.test, "ood": data.ood}
    if data.train and isinstance(data.validation, list):
        files["validation"] = data.validation
    stores = {}
    for name, paths in files.items():
        if not paths:
            continue
        labels = data.label_keys()
        needed = []
        if name in ("train", "validation"):
            needed = ["energy", "forces"] + ["stress"] * bool(config.training.stress_weight)
        if run is None:
            stores[name] = open_frames(paths, labels, require=needed)
        else:
            folder = run.path / "data" / name
            stores[name] = kept_frames(paths, labels, folder, needed, begun=run.begun)
    return stores


def _base(
    config: LearningConfig, stores: Mapping[str, FrameStore]
) -> tuple[list[Atoms], list[Atoms]]:
    """Frames that are labelled already, as they are split."""
    data = config.data
    if "train" not in stores:
        return [], []
    store = stores["train"]
    if isinstance(data.validation, list):
        return [f.to_atoms() for f in store], [f.to_atoms() for f in stores["validation"]]
    train, validation = split_indices(
        len(store), data.validation, data.split_seed, data.split, store.groups
    )
    return (
        [store[int(i)].to_atoms() for i in train],
        [store[int(i)].to_atoms() for i in validation],
    )


def _train(
    config: LearningConfig, stores: Mapping[str, FrameStore], task: TrainingTask, progress: bool
) -> Path:
    """A generation's training: the configuration's, on the generation's frames."""
    # Those of isolated atoms among the frames that were labelled already, and those given.
    isolated = stores["train"].isolated_atoms if "train" in stores else {}
    energies = {chemical_symbols[z]: e for z, e in isolated.items()}
    data = {
        "train": [task.train],
        "validation": [task.validation],
        "element_energies": energies | (config.data.element_energies or {}) or None,
        # As stores: their keys and units are the user's, those of our own files are not.
        **{name: [stores[name].path] for name in ("test", "ood") if name in stores},
    }
    own = Config(
        run_dir=task.run_dir,
        data=DataConfig(**data),
        model=config.model,
        training=config.training.model_copy(update={"seed": task.seed}),
    )
    run = train(own, resume=True, progress=progress)
    if run.model is None:
        raise InterruptedError("stopped while training")
    _remember(run.model, config.data)
    return run.model


def _remember(model: Path, asked: DataConfig) -> None:
    """The user's keys and units go with the model, which was trained on files of our own."""
    info = read_model_info(model)["info"]
    data = info.get("config", {}).get("data", {})
    given = {key: to_json(asked.to_dict()[key]) for key in ("labels", "group_key")}
    if any(data.get(key) != value for key, value in given.items()):
        data |= given
        save_model(load_model(model), model, info)
