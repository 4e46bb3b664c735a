"""`eip label`, `learn`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eip.active_learning.settings import ReferenceSettings
from eip.cli.app import app
from eip.cli.failures import resumable
from eip.cli.options import ConfigFile, Elements, Options, Progress, Resume, Set, config_of, takes
from eip.cli.printing import show, warn
from eip.config import LabelConfig


@app.command()
@takes(ReferenceSettings, "reference", without=("labeler_options",))
def label(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Structures; labels that they have are not looked at.", metavar="FILE..."
        ),
    ] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Extended XYZ to write.")] = None,
    config: ConfigFile = None,
    *,
    reference: Options,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Of the labeler: method=GFN1-xTB, template=my.inp, calculator=calc.py:make, "
            "model=teacher.eip; repeatable.",
        ),
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="Every n-th frame of each file, from the first.")
    ] = None,
    elements: Elements = None,
    progress: Progress = True,
) -> None:
    """Label structures by a reference method (xTB, CP2K, any ASE calculator), many at a time.

    Each calculation is kept in OUT.labels: the same command goes on where it was stopped, and
    tries again what failed.
    """
    from eip.config import override

    options: dict[str, Any] = {}
    for given in option or ():
        override(options, given, "--option")
    settings = config_of(
        LabelConfig,
        config,
        {"files": files or None, "out": out_, "every": every, "elements": elements, **reference},
        verb="label",
        sections={"labeler_options": (options or None, {})},
    )
    from eip.verbs import label as verb

    out = settings.out
    with resumable(f"finished labels are kept in {out}.labels, and the same command goes on"):
        done = verb.label(
            settings.files,
            out,
            settings.labeler,
            settings.labeler_options,
            every=settings.every,
            elements=settings.elements,
            executor=settings.executor,
            workers=settings.workers,
            retries=settings.retries,
            max_force=settings.max_force,
            max_net_force=settings.max_net_force,
            progress=progress,
            log=warn,
        )
    left = f", {len(done.failed)} left out" if done.failed else ""
    show(f"{out}: {done.labelled} labelled frames{left}; calculations in {done.scratch}")


@app.command()
def learn(
    config: Annotated[Path, typer.Argument(help="A config.yaml; 'eip init --learn' writes one.")],
    resume: Resume = False,
    status: Annotated[
        bool, typer.Option("--status", help="Only say where the run stands.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    set_: Set = None,
    progress: Progress = True,
) -> None:
    """Active learning: explore by MD and UDD, label what is uncertain, train again, till stable."""
    from eip.config import LearningConfig, load_config

    settings = load_config(config, set_ or (), root=LearningConfig)
    if status:
        from eip.active_learning.results import status as look
        from eip.verbs.learning_tables import status_table

        show(status_table(look(settings.run_dir)))
        return
    from eip.verbs import learn as verb

    if dry_run:
        show(verb.plan(settings))
        return
    with resumable("the same command with --resume goes on"):
        result = verb.learn(settings, resume=resume, progress=progress, log=show)
    show(f"Model: {result.model}    report: {settings.run_dir / 'learning.md'}")
