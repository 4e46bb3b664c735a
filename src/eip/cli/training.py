"""`eip init`, `train`, `attach`, `evaluate`, `calibrate`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eip.cli.app import app
from eip.cli.failures import resumable
from eip.cli.options import (
    Device,
    Frames,
    Model,
    Options,
    Progress,
    Resume,
    Set,
    label_options,
    labels_from,
)
from eip.cli.printing import show, show_metrics
from eip.errors import InputError


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("config.yaml"),
    train: Annotated[
        list[str] | None, typer.Option(help="File to train on, relative to the config; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    for_: Annotated[
        str, typer.Option("--for", metavar="VERB", help="train, learn, md, label or analyze.")
    ] = "train",
    for_learning: Annotated[
        bool, typer.Option("--learn", help="For active learning: the same as --for learn.")
    ] = False,
) -> None:
    """Write a commented config.yaml with every key and its default."""
    from eip.verbs import init as verb

    reader = "learn" if for_learning else for_
    needed = verb.init(path, train or (), verb=reader, force=force)
    then = f"set {' and '.join(needed)} in it, then: " if needed else ""
    config = "" if reader in ("train", "learn") else "--config "
    show(f"Wrote {path}; {then}eip {reader} {config}{path}")


@app.command()
def schema(
    verb: Annotated[
        str, typer.Argument(help="train, learn, md, label or analyze.", metavar="VERB")
    ] = "train",
) -> None:
    """Print the JSON schema of a verb's YAML file: editors complete and check by it."""
    import json

    from eip.config import schema as schema_of

    print(json.dumps(schema_of(verb), indent=2, ensure_ascii=False))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A config.yaml; 'eip init' writes one.")],
    resume: Resume = False,
    effort: Annotated[
        str | None, typer.Option(help="training.effort: quick, default or best.")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="model.start_from: a model.eip whose weights training begins with."),
    ] = None,
    set_: Set = None,
    progress: Progress = True,
) -> None:
    """Train a potential, calibrate its uncertainty, report how good both are."""
    from eip.config import load_config

    options = [] if effort is None else [f"training.effort={effort}"]
    if start_from is not None:
        options.append(f"model.start_from={start_from.resolve()}")
    settings = load_config(config, [*options, *(set_ or ())])
    from eip.verbs import train as verb

    with resumable("the same command with --resume goes on"):
        run = verb.train(settings, resume=resume, progress=progress, log=show)
        if run.model is None and run.result.ending == "interrupted":
            raise KeyboardInterrupt
    if run.model is None:
        return  # one of several processes: rank 0 reports
    show_metrics(run.metrics, f"on the {run.measured_on} frames")
    if run.measured_on == "validation":
        has_sigma = settings.model.uncertainty != "none"
        chosen = "the epoch and the calibration" if has_sigma else "the epoch"
        show(
            f"These frames also chose {chosen}, so the figures flatter; name data.test for honest "
            "ones."
        )
    show(f"Model: {run.model}    report: {run.run_dir / 'report.html'}")


@app.command()
@label_options
def attach(
    backbone: Annotated[
        str,
        typer.Argument(help="chgnet, sevenn or mace, or what a package adds.", metavar="NETWORK"),
    ],
    files: Frames,
    out: Annotated[Path, typer.Option(help="Where to write the model.")],
    weights: Annotated[
        str | None,
        typer.Option(help="Which of its package, as 7net-l3i5; for mace the file of a network."),
    ] = None,
    trust_weights: Annotated[
        bool, typer.Option("--trust-weights", help="Open the file, which runs what is in it.")
    ] = False,
    finetune: Annotated[
        str | None,
        typer.Option(
            help="Train the network, too: all of its layers, or the last; its weights are then in "
            "the model file."
        ),
    ] = None,
    shift_energies: Annotated[
        bool,
        typer.Option(
            "--shift-energies",
            help="Add a constant for each element to its energies, which brings them to the "
            "labels' level of theory.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    *,
    labels: Options,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Give a network that others trained an error bar, from 50 to 1,000 labelled frames."""
    from eip.verbs import attach as verb

    named: dict[str, object] = {"name": backbone}
    if weights is not None:
        named["weights"] = weights
    if trust_weights:
        named["trust_weights"] = True
    target = verb.attach(
        named,
        files,
        out,
        finetune=finetune,
        shift_energies=shift_energies,
        labels=labels_from(labels),
        seed=seed,
        device=device,
        progress=progress,
        log=show,
    )
    show(f"Wrote {target}")


@app.command()
@label_options
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
    scan: Annotated[
        bool,
        typer.Option(
            "--scan",
            help="Stretch bonds and watch the energy of NVE dynamics: scans.json, scans.png.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another evaluation in the folder.")
    ] = False,
    *,
    labels: Options,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Predict labelled frames: metrics.json, predictions.xyz, plots, report.html."""
    from eip.verbs import evaluate as verb

    metrics = verb.evaluate(
        model,
        files,
        out_dir,
        ood=ood or (),
        labels=labels_from(labels),
        scan=scan,
        force=force,
        device=device,
        progress=progress,
        log=show,
    )
    show_metrics(metrics, f"of {model}")
    show(f"Report: {out_dir / 'report.html'}    all figures: {out_dir / 'metrics.json'}")


@app.command()
@label_options
def calibrate(
    model: Model,
    files: Frames,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Write a copy there, leave MODEL as it is.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="per_element, scale, isotonic or split_conformal.")
    ] = "per_element",
    trained_on: Annotated[
        list[Path] | None,
        typer.Option(
            help="Frames that MODEL was trained on, for one of an earlier eIP: below their "
            "closest approaches nuclei repel from then on; repeatable."
        ),
    ] = None,
    *,
    labels: Options,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Fit the error bar on frames that MODEL was not trained on, and store it in MODEL."""
    from eip.verbs import calibrate as verb

    target = verb.calibrate(
        model,
        files,
        out_path,
        method=method,
        trained_on=trained_on or (),
        labels=labels_from(labels),
        device=device,
        progress=progress,
        log=show,
    )
    show(f"Wrote {target}")


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
    rivals: Annotated[
        str | None,
        typer.Option(
            help="Potentials of others, by commas: chgnet, sevenn, a model.eip, or "
            "module:function, which makes an ASE calculator; the difference of two is a row."
        ),
    ] = None,
    set_: Set = None,
    progress: Progress = True,
) -> None:
    """Train methods of uncertainty side by side: accuracy, ranking, calibration, OOD, cost.

    The folder is run_dir; what is there already is not trained again. training.parallel trains
    several networks at once.
    """
    from eip.config import load_config

    settings = load_config(config, set_ or ())
    from eip.verbs import compare as verb

    try:
        chosen = None if seeds is None else [int(seed) for seed in seeds.split(",")]
        if chosen is not None and not all(0 <= seed < 2**32 for seed in chosen):
            raise ValueError
    except ValueError:
        raise InputError(f"--seeds expects whole numbers by commas, got '{seeds}'") from None
    with resumable(f"the same command goes on: eip compare {config}"):
        found = verb.compare(
            settings,
            verb.DEFAULT_METHODS if methods is None else [m.strip() for m in methods.split(",")],
            chosen,
            rivals=[] if rivals is None else [name.strip() for name in rivals.split(",")],
            progress=progress,
            log=show,
        )
    show(f"Table: {found.table}    plot: {found.plot}    all figures: {found.json}")
