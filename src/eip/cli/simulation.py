"""`eip md`, `analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from eip.analysis.settings import AnalysisSettings
from eip.cli.app import app
from eip.cli.failures import Interrupted, resumable
from eip.cli.options import (
    ConfigFile,
    Device,
    Elements,
    Options,
    Progress,
    Resume,
    config_of,
    takes,
)
from eip.cli.printing import show
from eip.config import AnalyzeConfig, MDConfig
from eip.errors import InputError
from eip.simulation.settings import DynamicsSettings, UDDSettings

_DYNAMICS = {
    "timestep_fs": "timestep",
    "taut_fs": "taut",
    "taup_fs": "taup",
    "trajectory_interval": "every",
}
_UDD = {
    "A": "udd-a",
    "B": "udd-b",
    "C": "udd-c",
    "D": "udd-d",
    "max_bias_force": "udd-max-force",
    "limiter": "udd-limiter",
    "hover": "udd-hover",
    "memory": "udd-memory",
    "soft": "udd-soft",
    "interval": "udd-interval",
}


@app.command()
@takes(DynamicsSettings, "dynamics", _DYNAMICS)
@takes(UDDSettings, "bias", _UDD)
def md(
    model: Annotated[Path | None, typer.Argument(help="A model.eip.", metavar="MODEL")] = None,
    start: Annotated[
        Path | None,
        typer.Argument(help="Structure to start from, any format of ASE.", metavar="START"),
    ] = None,
    config: ConfigFile = None,
    frame: Annotated[
        int | None, typer.Option(help="Which frame of START, from 0; -1 is the last.")
    ] = None,
    elements: Elements = None,
    *,
    dynamics: Options,
    break_bonds: Annotated[
        bool, typer.Option("--break-bonds", help="A broken bond does not end the run.")
    ] = False,
    udd: Annotated[
        bool, typer.Option("--udd", help="Push towards where the potential is uncertain.")
    ] = False,
    bias: Options,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder; by default md or udd.")
    ] = None,
    resume: Resume = False,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Molecular dynamics with a live error bar on every atom; --udd drives it to the unknown."""
    if bias and not udd and config is None:
        raise InputError("parameters of UDD are given, but not --udd itself")
    if break_bonds:
        if "max_bond_stretch" in dynamics:
            raise InputError("--break-bonds and --max-bond-stretch contradict each other")
        dynamics = {**dynamics, "max_bond_stretch": None}
    if config is None and out_dir is None:
        out_dir = Path("udd" if udd else "md")
    settings = config_of(
        MDConfig,
        config,
        {
            "model": model,
            "start": start,
            "frame": frame,
            "elements": elements,
            "run_dir": out_dir,
            "device": device,
        },
        verb="md",
        names={"run_dir": "out"},
        sections={"dynamics": (dynamics, _DYNAMICS), "udd": (bias if bias or udd else None, _UDD)},
    )
    from eip.verbs import md as verb

    go_on = f"the same command with --resume goes on in {settings.run_dir}"
    with resumable(go_on):
        summary = verb.md(
            settings.model,
            settings.start,
            settings.dynamics,
            settings.run_dir,
            frame=settings.frame,
            elements=settings.elements,
            udd=settings.udd,
            resume=resume,
            device=settings.device,
            kernels=settings.kernels,
            progress=progress,
            log=show,
        )
    if summary.cause == "interrupted":
        steps = settings.dynamics.steps
        raise Interrupted(f"Interrupted at step {summary.steps:,} of {steps:,}; {go_on}")
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
    show(table)
    show(f"Trajectory, log, plot and summary.json: {settings.run_dir}")


@app.command()
@takes(AnalysisSettings, "analysis")
def analyze(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of 'eip md', or files that ASE reads.", metavar="RUN..."),
    ] = None,
    config: ConfigFile = None,
    labels: Annotated[
        str | None, typer.Option(help="Names by commas, as MD,UDD; by default from the paths.")
    ] = None,
    out_: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for figures and plots; by default runs/analysis."),
    ] = None,
    *,
    analysis: Options,
) -> None:
    """What runs sampled, MD against UDD on one grid: order parameters, entropy, structure."""
    names = None if labels is None else [name.strip() for name in labels.split(",")]
    settings = config_of(
        AnalyzeConfig,
        config,
        {"runs": runs or None, "labels": names, "out": out_, **analysis},
        verb="analyze",
    )
    from eip.verbs import analyze as verb

    content = verb.analyze(
        settings.runs,
        settings.out,
        kind=settings.kind,
        labels=settings.labels,
        bins=settings.bins,
        every=settings.every,
        skip_ps=settings.skip_ps,
        cutoff=settings.cutoff,
        model=settings.model,
        temperature=settings.temperature,
    )
    found = content["runs"]
    table = Table("", *map(escape, found), title=f"sampling, kind {content['kind']}")
    for key, words in _SAMPLING:
        if any(of.get(key) is not None for of in found.values()):
            table.add_row(words, *(_short(of.get(key)) for of in found.values()))
    for key in content["order_parameters"] or ():
        means = (of["order_parameters"][key] for of in found.values())
        table.add_row(
            f"{key}, mean ± spread", *(f"{m['mean']:.4g} ± {m['std']:.2g}" for m in means)
        )
    averages = {name: of["averages"] for name, of in found.items() if "averages" in of}
    quantities = [of["quantities"] for of in averages.values()]
    for key in quantities[0] if quantities else ():
        cells = [
            f"{m['mean']:.6g} ± {m['potential_error']:.2g} ± {m['sampling_error']:.2g}"
            for m in (of[key] for of in quantities if key in of)
        ]
        table.add_row(f"{key}, ± the potential's error ± sampling", *cells)
    show(table)
    for name, of in averages.items():
        if of["doubt"]:
            show(f"{name}: {of['doubt']}.")
    show(f"Figures: {settings.out / 'analysis.json'}    plots: {settings.out}")


#: Of analysis.json: key and words.
_SAMPLING = (
    ("frames", "frames"),
    ("length_ps", "length (ps)"),
    ("mean_energy", "energy, mean (eV)"),
    ("mean_uncertainty", "uncertainty σ, mean (eV/Å)"),
    ("max_uncertainty", "uncertainty σ, largest (eV/Å)"),
    ("entropy", "configurational entropy (0 to 1)"),
    ("entropy_same_length", "the same, over as many frames"),
    ("coverage", "share of the grid visited"),
    ("coverage_same_length", "the same, over as many frames"),
)


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
