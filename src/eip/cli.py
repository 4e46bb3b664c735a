"""The command line: one function a verb. What it does is in `eip.workflow`; this reads and prints.

Heavy imports are inside the verbs, so that ``eip --help`` answers at once.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eip._version import __version__
from eip.errors import InputError

if TYPE_CHECKING:
    from eip.data import Labels

app = typer.Typer(
    name="eip",
    help="Machine-learning interatomic potentials that know their own error.\n\n"
    "All figures are in eV, Å, eV/Å, fs and K.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console()
err = Console(stderr=True)

# --- options that several verbs have -------------------------------------------------------------

Model = Annotated[Path, typer.Argument(help="A model.eip.", metavar="MODEL")]
Frames = Annotated[list[Path], typer.Argument(help="Labelled frames.", metavar="FILE...")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
EnergyKey = Annotated[str | None, typer.Option(help="Key of the energies in the file.")]
ForcesKey = Annotated[str | None, typer.Option(help="Key of the forces in the file.")]
StressKey = Annotated[str | None, typer.Option(help="Key of the stresses in the file.")]
EnergyUnit = Annotated[str | None, typer.Option(help="Unit of energy in the file, as kcal/mol.")]
LengthUnit = Annotated[str | None, typer.Option(help="Unit of length in the file, as Bohr.")]


def _labels(*given: str | None) -> Labels | None:
    """Keys and units if any is given; None leaves them to the model's training data."""
    from eip.data import Labels

    return Labels(*given) if any(given) else None


# --- verbs ---------------------------------------------------------------------------------------


def _version(wanted: bool) -> bool:
    if wanted:
        out.print(f"eip {__version__}", highlight=False)
        raise typer.Exit()
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Options before the verb; --debug is read by `main`."""


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("config.yaml"),
    train: Annotated[
        list[str] | None, typer.Option(help="File to train on, relative to the config; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    for_learning: Annotated[
        bool, typer.Option("--learn", help="For active learning: 'eip learn'.")
    ] = False,
) -> None:
    """Write a commented config.yaml with every key and its default."""
    from eip.config import Config, LearningConfig, default_config_yaml

    if path.exists() and not force:
        raise InputError(f"{path} exists already; --force replaces it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    root = LearningConfig if for_learning else Config
    path.write_text(default_config_yaml(train or (), root), encoding="utf-8")
    then = f"eip train {path}" if train else f"set data.train in it, then: eip train {path}"
    if for_learning:
        then = f"set learn.starts in it, then: eip learn {path}"
    out.print(f"Wrote {path}; {then}", highlight=False, markup=False)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A config.yaml; 'eip init' writes one.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run was stopped.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Instead of the file: training.epochs=50"),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Train a potential, calibrate its uncertainty, report how good both are."""
    from eip.config import load_config

    settings = load_config(config, set_ or ())
    from eip.workflow import train_model

    run = train_model(settings, resume=resume, progress=progress, say=_say)
    if run.model is None:
        raise Interrupted(
            f"Interrupted after {run.result.epochs} epochs; go on with: eip train {config} --resume"
        )
    _print_metrics(run.metrics, f"on the {run.measured_on} frames")
    if run.measured_on == "validation":
        _say(
            "These frames also chose the epoch and the calibration, so the figures flatter; "
            "name data.test for honest ones."
        )
    _say(f"Model: {run.model}    report: {run.run_dir / 'report.html'}")


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A config.yaml with data.test; data.ood helps.")],
    methods: Annotated[
        str | None,
        typer.Option(help="Names for model.uncertainty, by commas; by default all with σ by atom."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="By commas, as 0,1,2; by default training.seed.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Instead of the file: training.epochs=50"),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Train methods of uncertainty side by side: accuracy, ranking, calibration, OOD, cost.

    The folder is run_dir; what is there already is not trained again. training.parallel trains
    several networks at once.
    """
    from eip.config import load_config

    settings = load_config(config, set_ or ())
    from eip.comparison import DEFAULT_METHODS, compare_methods

    try:
        chosen = None if seeds is None else [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise InputError(f"--seeds expects whole numbers by commas, got '{seeds}'") from None
    try:
        found = compare_methods(
            settings,
            DEFAULT_METHODS if methods is None else [m.strip() for m in methods.split(",")],
            chosen,
            progress=progress,
            say=_say,
        )
    except InterruptedError:
        raise Interrupted(f"Interrupted; the same command goes on: eip compare {config}") from None
    _say(f"Table: {found.table}    plot: {found.plot}    all figures: {found.json}")


@app.command()
def evaluate(
    model: Model,
    files: Frames,
    ood: Annotated[
        list[Path] | None,
        typer.Option(help="Frames unlike the training set, to see whether σ notices; repeatable."),
    ] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder for metrics.json, predictions and plots.")
    ] = Path("evaluation"),
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    device: Device = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Predict labelled frames: metrics.json, predictions.xyz, plots, report.html."""
    from eip.workflow import evaluate_model

    metrics = evaluate_model(
        model,
        files,
        out_dir,
        ood=ood or (),
        labels=_labels(energy_key, forces_key, stress_key, energy_unit, length_unit),
        device=device,
        progress=progress,
        say=_say,
    )
    _print_metrics(metrics, f"of {model}")
    _say(f"Report: {out_dir / 'report.html'}    all figures: {out_dir / 'metrics.json'}")


@app.command()
def calibrate(
    model: Model,
    files: Frames,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Write a copy there, leave MODEL as it is.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="per_element, scale, isotonic or split_conformal.")
    ] = "per_element",
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    device: Device = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Fit the error bar on frames that MODEL was not trained on, and store it in MODEL."""
    from eip.workflow import calibrate_model

    target = calibrate_model(
        model,
        files,
        out_path,
        method=method,
        labels=_labels(energy_key, forces_key, stress_key, energy_unit, length_unit),
        device=device,
        progress=progress,
        say=_say,
    )
    _say(f"Wrote {target}")


@app.command()
def learn(
    config: Annotated[Path, typer.Argument(help="A config.yaml; 'eip init --learn' writes one.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run was stopped or killed.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Only say where the run stands.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Instead of the file: learn.labels=20"),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Active learning: explore by MD and UDD, label what is uncertain, train again, till stable."""
    from eip.config import LearningConfig, load_config

    settings = load_config(config, set_ or (), root=LearningConfig)
    if status:
        from eip.active_learning.loop import status as look
        from eip.learning import status_table

        out.print(status_table(look(settings.run_dir)))
        return
    from eip import learning

    if dry_run:
        out.print(learning.plan(settings))
        return
    try:
        result = learning.learn(settings, resume=resume, progress=progress, say=_say)
    except (InterruptedError, KeyboardInterrupt):
        raise Interrupted(f"Interrupted; go on with: eip learn {config} --resume") from None
    _say(f"Model: {result.model}    report: {settings.run_dir / 'learning.md'}")


@app.command()
def md(
    model: Model,
    start: Annotated[Path, typer.Argument(help="Structure to start from, any format of ASE.")],
    temperature: Annotated[float, typer.Option(help="K.")] = 300.0,
    steps: Annotated[int, typer.Option(help="Of the whole run, continuations included.")] = 20_000,
    timestep: Annotated[float, typer.Option(help="fs.")] = 0.5,
    ensemble: Annotated[
        str, typer.Option(help="langevin, bussi, nose-hoover, nvt-berendsen, nve or npt.")
    ] = "langevin",
    friction: Annotated[float, typer.Option(help="1/fs, of Langevin.")] = 0.01,
    taut: Annotated[float, typer.Option(help="fs, time of the other thermostats.")] = 100.0,
    pressure: Annotated[float, typer.Option(help="eV/Å³, of npt; 1 bar is 6.24e-7.")] = 0.0,
    taup: Annotated[float, typer.Option(help="fs, time of the barostat.")] = 1000.0,
    frame: Annotated[int, typer.Option(help="Which frame of START, from 0; -1 is the last.")] = 0,
    max_uncertainty: Annotated[
        float | None, typer.Option(help="Stop where σ of the structure passes this, eV/Å.")
    ] = None,
    break_bonds: Annotated[
        bool, typer.Option("--break-bonds", help="A broken bond does not end the run.")
    ] = False,
    every: Annotated[int, typer.Option(help="Steps between frames of the trajectory.")] = 100,
    udd: Annotated[
        bool, typer.Option("--udd", help="Push towards where the potential is uncertain.")
    ] = False,
    udd_a: Annotated[
        float | None, typer.Option(help="A, eV. What is not given is proposed.")
    ] = None,
    udd_b: Annotated[float | None, typer.Option(help="B, eV/Å.")] = None,
    udd_c: Annotated[float | None, typer.Option(help="C, eV/Å.")] = None,
    udd_d: Annotated[float | None, typer.Option(help="D, eV/Å.")] = None,
    udd_max_force: Annotated[
        float | None, typer.Option(help="Largest bias force, eV/Å, in place of D.")
    ] = None,
    udd_limiter: Annotated[str, typer.Option(help="global, atom or component.")] = "global",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder; by default md or udd.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    seed: Annotated[int, typer.Option(help="Of momenta and thermostat.")] = 0,
    device: Device = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Molecular dynamics with a live error bar on every atom; --udd drives it to the unknown."""
    chosen = {"A": udd_a, "B": udd_b, "C": udd_c, "D": udd_d, "max_bias_force": udd_max_force}
    if not udd and any(value is not None for value in chosen.values()):
        raise InputError("parameters of UDD are given, but not --udd itself")
    from eip.simulation import DynamicsSettings
    from eip.workflow import UDDChoice, run_md

    settings = DynamicsSettings(
        steps=steps,
        ensemble=ensemble,  # checked there, with "did you mean"
        temperature=temperature,
        timestep_fs=timestep,
        friction=friction,
        taut_fs=taut,
        pressure=pressure,
        taup_fs=taup,
        seed=seed,
        trajectory_interval=every,
        max_uncertainty=max_uncertainty,
        max_bond_stretch=None if break_bonds else DynamicsSettings.max_bond_stretch,
    )
    folder = out_dir or Path("udd" if udd else "md")
    summary = run_md(
        model,
        start,
        settings,
        folder,
        frame=frame,
        udd=UDDChoice(**chosen, limiter=udd_limiter) if udd else None,
        resume=resume,
        device=device,
        progress=progress,
        say=_say,
    )
    table = Table(title="dynamics", show_header=False)
    table.add_row("ending", f"[bold]{summary.ending}[/]: {escape(summary.reason)}")
    table.add_row("length", f"{summary.steps:,} steps, {summary.time_fs / 1000:.3g} ps")
    rows = (
        ("mean temperature", summary.mean_temperature, "K"),
        ("mean uncertainty σ", summary.mean_uncertainty, "eV/Å"),
        ("largest σ of the structure", summary.max_uncertainty, "eV/Å"),
        ("largest σ of an atom", summary.max_force_uncertainty, "eV/Å"),
        ("largest bias force", summary.max_bias_force, "eV/Å"),
        ("closest approach", summary.closest_distance, "Å"),
        ("speed", summary.steps_per_second, "steps/s"),
    )
    for name, value, unit in rows:
        if value is not None:
            table.add_row(name, f"{value:.4g} {unit}")
    out.print(table)
    _say(f"Trajectory, log, plot and summary.json: {folder}")


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A model.eip or a file of frames.")],
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is in a model (elements, training, calibration) or a file of frames (labels, ranges)."""
    from eip.workflow import describe_model, is_model, summarize_files

    if not is_model(path):
        summary = summarize_files(
            [path], _labels(energy_key, forces_key, stress_key, energy_unit, length_unit)
        )
        if as_json:
            print(json.dumps(summary.to_dict(), indent=2, ensure_ascii=False))
        else:
            out.print(summary.table(str(path)))
        return
    description = describe_model(path)
    if as_json:
        print(json.dumps(description, indent=2, ensure_ascii=False))
        return
    table = Table(title=str(path), show_header=False)
    for key, value in description.items():
        table.add_row(f"[bold]{escape(key)}[/]", escape(_lines(value)))
    out.print(table)


# --- printing ------------------------------------------------------------------------------------

#: What a person looks at first: key, words, factor, unit.
_FIRST = (
    ("force_mae", "force error (MAE of a component)", 1000, "meV/Å"),
    ("force_rmse", "force error (RMSE of a component)", 1000, "meV/Å"),
    ("energy_mae_per_atom", "energy error (MAE)", 1000, "meV/atom"),
    ("mean_uncertainty", "uncertainty σ, mean", 1000, "meV/Å"),
    ("spearman_atom", "rank correlation of σ and error, atoms (1 is best)", 1, ""),
    ("roc_auc_atom", "σ finds the worst atoms (ROC-AUC; 0.5 is chance)", 1, ""),
    ("coverage_80", "share of errors inside the 80 % interval", 1, ""),
    ("miscalibration_area", "miscalibration area (0 is best)", 1, ""),
)


def _print_metrics(metrics: Mapping[str, float], title: str) -> None:
    has_ood = "ood_ratio" in metrics
    table = Table("", "value", *(["OOD"] if has_ood else []), title=f"metrics {title}")
    for key, words, factor, unit in _FIRST:
        cells = [
            f"{metrics[name] * factor:.3g} {unit}" if name in metrics else ""
            for name in (key, f"{key}_ood")
        ]
        if key in metrics and metrics[key] == metrics[key]:
            table.add_row(words, *cells[: 1 + has_ood])
    out.print(table)
    if has_ood:
        _say(
            f"Out of distribution σ grows {metrics['ood_ratio']:.2f} times as much as the error "
            f"(1 is right, below: too little); it tells such structures apart with an AUC of "
            f"{metrics['ood_auc']:.2f}."
        )


def _lines(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_line(v)}" for k, v in value.items())
    return _line(value)


def _line(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_line(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_line, value))
    return str(value)


def _say(message: object) -> None:
    if isinstance(message, str):
        out.print(message, highlight=False, markup=False, soft_wrap=True)
    else:
        out.print(message)


# --- failures ------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stopped by the user; what was done so far is kept."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error is one paragraph on stderr and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = app(args=given, prog_name="eip", standalone_mode=False)
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                raise
            text, code = _explain(error)
            if text:
                err.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException) -> tuple[str, int]:
    """An error as a paragraph, and the exit code."""
    if isinstance(error, Interrupted):
        return str(error), 130
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "Interrupted.", 130
    if isinstance(error, InputError):
        return f"Error: {error}", 2
    if hasattr(error, "format_message"):  # of typer: an option or argument is wrong
        said = error.format_message().strip()
        if not said:  # help was printed instead
            return "", 2
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "eip"
        return f"Error: {said.rstrip('.')}. See '{verb} --help'.".replace("?.", "?"), 2
    # By name, or every failure would first import Lightning.
    if type(error).__name__ == "NonFiniteLoss":
        return f"Error: {error}", 2
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "Error: the GPU's memory is full; set training.batch_size or training.max_atoms lower, "
            "or --device cpu",
            2,
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"Error: {error.filename}: {error.strerror}", 2
    said = " ".join(str(error).split()) or "no message"
    return (
        f"Error: eip failed in a way that it should not ({type(error).__name__}: {said}). "
        f"Please report it, with what '--debug' added to the command prints.",
        2,
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # Of libraries below ours a user can change nothing.
    if category.__module__.startswith("eip."):
        err.print(f"Warning: {message}", style="yellow", highlight=False, markup=False)


if __name__ == "__main__":
    main()
