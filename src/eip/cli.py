"""The command line: one function a verb. What it does is in `eip.workflow`; this reads and prints.

Heavy imports are inside the verbs, so that ``eip --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eip._version import __version__
from eip.errors import InputError, full_disk
from eip.signals import exit_code, heeding_termination

if TYPE_CHECKING:
    from rich.progress import Progress

    from eip.data import Labels
    from eip.data.convert import Progress as Converting

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
ForcesUnit = Annotated[str | None, typer.Option(help="Unit of forces, as Hartree/Bohr.")]
StressUnit = Annotated[str | None, typer.Option(help="Unit of stress, as GPa or kbar.")]
StressSign = Annotated[
    str | None, typer.Option(help="Sign of stress: ase, (1/V) dE/dε, or vasp, the other one.")
]
Elements = Annotated[
    str | None, typer.Option(help="Elements of LAMMPS' types 1, 2, …, by commas, as O,H.")
]
KeepIsolatedAtoms = Annotated[
    bool,
    typer.Option(
        "--keep-isolated-atoms", help="config_type=IsolatedAtom: frames like others, not E0."
    ),
]
SkipUnconverged = Annotated[
    bool,
    typer.Option("--skip-unconverged", help="Leave out steps whose SCF did not converge."),
]


def _labels(*, elements: str | None = None, **given: Any) -> Labels | None:
    """Keys and units if any is given; None leaves them to the model's training data."""
    from eip.data import Labels

    if elements is not None:
        given["elements"] = tuple(elements.replace(",", " ").split())
    return Labels(**given) if any(given.values()) else None


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
    from eip.files import write_whole

    if path.exists() and not force:
        raise InputError(f"{path} exists already; --force replaces it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    root = LearningConfig if for_learning else Config
    write_whole(path, default_config_yaml(train or (), root))
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

    with _resumable("the same command with --resume goes on"):
        run = train_model(settings, resume=resume, progress=progress, say=_say)
        if run.model is None and run.result.ending == "interrupted":
            raise KeyboardInterrupt
    if run.model is None:
        return  # one of several processes: the first one reports
    _print_metrics(run.metrics, f"on the {run.measured_on} frames")
    if run.measured_on == "validation":
        _say(
            "These frames also chose the epoch and the calibration, so the figures flatter; "
            "name data.test for honest ones."
        )
    _say(f"Model: {run.model}    report: {run.run_dir / 'report.html'}")


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="A data set; --list shows them.")] = None,
    to: Annotated[
        Path, typer.Option(help="Folder for data sets; this one's files go to TO/NAME.")
    ] = Path("data"),
    only: Annotated[
        str | None, typer.Option(help="Only files like that: aspirin, or a pattern, 'a*.npz'.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List the data sets, with licence and citation.")
    ] = False,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Download a published data set; a download that was cut goes on where it stopped."""
    from eip.data import fetch as fetching

    if list_ or name is None:
        _list_data_sets()
        if not list_:
            raise InputError("which data set? Give the name of one of them")
        return
    data_set = fetching.find_data_set(name)
    with _download_bars(progress) as bars:

        def reporter(file: str) -> fetching.Report:
            task = bars.add_task(file, total=None)
            return lambda there, total: bars.update(task, completed=there, total=total)

        with _resumable("what has arrived is kept, and the same command goes on"):
            folder = fetching.fetch(data_set, to, only=only, reporter=reporter, say=_say)
    _say(f"Files: {folder}    licence: {data_set.licence}    to cite: {data_set.cite}")
    if data_set.note:
        _say(f"Note: {data_set.note}")


@app.command()
def convert(
    sources: Annotated[
        list[Path], typer.Argument(help="Files of frames, or stores.", metavar="IN...")
    ],
    out_: Annotated[Path, typer.Argument(help="Folder of the new store.", metavar="OUT")],
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only such frames: atoms<=200, elements=H,C,O (no others), contains=Li, "
            "without=Pb,U, labelled=forces. Several: all must hold."
        ),
    ] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    forces_unit: ForcesUnit = None,
    stress_unit: StressUnit = None,
    stress_sign: StressSign = None,
    elements: Elements = None,
    keep_isolated_atoms: KeepIsolatedAtoms = False,
    skip_unconverged: SkipUnconverged = False,
    group_key: Annotated[
        str | None, typer.Option(help="Key of what frames share; 'file' for the file itself.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Convert frames to a store, which training maps into memory; goes on where it was stopped.

    Every training converts its own frames; that of large sets is worth doing once, and
    data.train, validation and test take the store.
    """
    from eip.data import convert as converting
    from eip.data.frame import LABELS

    labels = _labels(
        energy=energy_key,
        forces=forces_key,
        stress=stress_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        forces_unit=forces_unit,
        stress_unit=stress_unit,
        stress_sign=stress_sign,
        elements=elements,
        keep_isolated_atoms=keep_isolated_atoms,
        skip_unconverged=skip_unconverged,
        group=group_key,
    )
    selection = converting.Where(where or ())
    kept = out_.with_name(out_.name + converting.PARTIAL)
    with (
        _resumable(f"what was converted is kept in {kept}, and the same command goes on"),
        _conversion_bar(progress) as tick,
    ):
        done = converting.convert(sources, out_, labels, selection, tick=tick)
    store = done.store
    if done.was_there:
        _say(f"{out_} is there already, of the same files as they are now.")
    labelled = ", ".join(f"{n} of {int(store.has(n).sum()):,}" for n in LABELS)
    left = f" ({done.left_out:,} left out)" if done.left_out else ""
    _say(
        f"{out_}: {len(store):,} frames{left}, {int(store.n_atoms.sum()):,} atoms of "
        f"{len(store.elements)} elements; {labelled}; {store.bytes / 1e6:,.0f} MB"
    )


build_app = typer.Typer(
    no_args_is_help=True, help="Build a structure to start from: crystals, polymers, liquids."
)
app.add_typer(build_app, name="build")

_Seed = Annotated[int, typer.Option(help="Another seed, another structure.")]


@build_app.command()
def lifepo4(
    out_: Annotated[Path, typer.Option("--out", help="File to write: .xyz, .cif, POSCAR.")],
    supercell: Annotated[
        tuple[int, int, int], typer.Option(help="Cells along a, b, c; 1 2 3 are 168 atoms.")
    ] = (1, 1, 1),
    vacancies: Annotated[int, typer.Option(help="Li atoms to take out, at random.")] = 0,
    seed: _Seed = 0,
) -> None:
    """Olivine LiFePO4 (Pnma), at its experimental geometry."""
    from eip import builders

    _write_built(out_, builders.lifepo4(supercell, vacancies=vacancies, seed=seed))


@build_app.command()
def pdms(
    out_: Annotated[Path, typer.Option("--out", help="File to write: .xyz, .cif, POSCAR.")],
    chains: Annotated[int, typer.Option(help="How many.")] = 3,
    units: Annotated[int, typer.Option(help="Si(CH3)2O units of a chain.")] = 25,
    density: Annotated[float, typer.Option(help="g/cm³.")] = 0.97,
    anneal_ps: Annotated[float, typer.Option(help="Dynamics at 600 K after packing, ps.")] = 2.0,
    seed: _Seed = 0,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """A melt of poly(dimethylsiloxane), chains grown in the box and relaxed; ends H and OH."""
    from eip import builders

    with _bar(progress, "relaxing") as tick:
        built = builders.pdms(chains, units, density, anneal_ps=anneal_ps, seed=seed, tick=tick)
    _write_built(out_, built)


@build_app.command()
def water(
    out_: Annotated[Path, typer.Option("--out", help="File to write: .xyz, .cif, POSCAR.")],
    molecules: Annotated[int, typer.Option(help="How many.")] = 32,
    density: Annotated[float, typer.Option(help="g/cm³.")] = 1.0,
    melt_ps: Annotated[
        float, typer.Option(help="Length of the melting, ps; 0 leaves a grid.")
    ] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of the melting, K.")] = 330.0,
    seed: _Seed = 0,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """A box of liquid water, melted by a classical force field (rigid TIP3P)."""
    from eip import builders

    with _bar(progress, "melting") as tick:
        built = builders.water(
            molecules, density, melt_ps=melt_ps, temperature=temperature, seed=seed, tick=tick
        )
    _write_built(out_, built)


@build_app.command()
def molecule(
    name: Annotated[str, typer.Argument(help="As in ASE's collection: CH3CH2OH, C6H6, H2O.")],
    out_: Annotated[Path, typer.Option("--out", help="File to write: .xyz, .cif, POSCAR.")],
) -> None:
    """A free molecule of ASE's collection (G2)."""
    from eip import builders

    _write_built(out_, builders.molecule(name))


def _write_built(path: Path, atoms: Any) -> None:
    from eip import builders

    builders.write_structure(path, atoms)
    lengths = ", ".join(f"{length:.3f}" for length in atoms.cell.lengths())
    cell = f", cell {lengths} Å" if atoms.pbc.any() else ""
    _say(f"{path}: {len(atoms)} atoms, {atoms.get_chemical_formula()}{cell}")


@app.command()
def analyze(
    trajectories: Annotated[
        list[Path],
        typer.Argument(help="Folders of 'eip md', or files that ASE reads.", metavar="RUN..."),
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="lifepo4: P-O-Fe angle and PO4 distortion; polymer (or pdms): end-to-end "
            "distance and radius of gyration; molecule: torsions; none; auto finds out."
        ),
    ] = "auto",
    labels: Annotated[
        str | None, typer.Option(help="Names by commas, as MD,UDD; by default from the paths.")
    ] = None,
    out_: Annotated[Path, typer.Option("--out", help="Folder for figures and plots.")] = Path(
        "runs/analysis"
    ),
    bins: Annotated[int, typer.Option(help="Cells along each order parameter.")] = 40,
    every: Annotated[int, typer.Option(help="Take each so-manieth frame.")] = 1,
    skip_ps: Annotated[float, typer.Option(help="Leave out what comes earlier, ps.")] = 0.0,
    cutoff: Annotated[float, typer.Option(help="Of radial distribution functions, Å.")] = 6.0,
) -> None:
    """What runs sampled, MD against UDD on one grid: order parameters, entropy, structure."""
    from eip import workflow

    content = workflow.analyze_runs(
        trajectories,
        out_,
        kind=kind,
        labels=None if labels is None else [name.strip() for name in labels.split(",")],
        bins=bins,
        every=every,
        skip_ps=skip_ps,
        cutoff=cutoff,
    )
    runs = content["runs"]
    table = Table("", *map(escape, runs), title=f"sampling, kind {content['kind']}")
    for key, words in _SAMPLING:
        if any(of.get(key) is not None for of in runs.values()):
            table.add_row(words, *(_short(of.get(key)) for of in runs.values()))
    for key in content["order_parameters"] or ():
        means = (of["order_parameters"][key] for of in runs.values())
        table.add_row(
            f"{key}, mean ± spread", *(f"{m['mean']:.4g} ± {m['std']:.2g}" for m in means)
        )
    out.print(table)
    _say(f"Figures: {out_ / 'analysis.json'}    plots: {out_}")


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


@app.command()
def reproduce(
    figure: Annotated[str, typer.Argument(help="fig2, fig3, fig4 or fig5 of the paper.")],
    data: Annotated[
        Path, typer.Option(help="Folder with data sets, as 'eip fetch' leaves them.")
    ] = Path("data"),
    out_: Annotated[Path, typer.Option("--out", help="Folder for everything.")] = Path(
        "runs/reproduce"
    ),
    scale: Annotated[
        str, typer.Option(help="small: samples, minutes on a laptop; paper: for a GPU node.")
    ] = "small",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Instead of the recipe: training.epochs=5"),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """One of the paper's figures: trained, evaluated, drawn, beside what the paper says.

    Goes on where it was stopped."""
    from eip import reproduction

    with _resumable("the same command goes on"):
        made = reproduction.reproduce(
            reproduction.figure_named(figure),
            data,
            out_,
            scale=reproduction.scale_named(scale),
            changes=set_ or (),
            progress=progress,
            say=_say,
        )
    _say(f"Figure: {made.plot}    table: {made.table}")


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
        if chosen is not None and not all(0 <= seed < 2**32 for seed in chosen):
            raise ValueError
    except ValueError:
        raise InputError(f"--seeds expects whole numbers by commas, got '{seeds}'") from None
    with _resumable(f"the same command goes on: eip compare {config}"):
        found = compare_methods(
            settings,
            DEFAULT_METHODS if methods is None else [m.strip() for m in methods.split(",")],
            chosen,
            progress=progress,
            say=_say,
        )
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
    forces_unit: ForcesUnit = None,
    stress_unit: StressUnit = None,
    stress_sign: StressSign = None,
    elements: Elements = None,
    keep_isolated_atoms: KeepIsolatedAtoms = False,
    skip_unconverged: SkipUnconverged = False,
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
        labels=_labels(
            energy=energy_key,
            forces=forces_key,
            stress=stress_key,
            energy_unit=energy_unit,
            length_unit=length_unit,
            forces_unit=forces_unit,
            stress_unit=stress_unit,
            stress_sign=stress_sign,
            elements=elements,
            keep_isolated_atoms=keep_isolated_atoms,
            skip_unconverged=skip_unconverged,
        ),
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
    forces_unit: ForcesUnit = None,
    stress_unit: StressUnit = None,
    stress_sign: StressSign = None,
    elements: Elements = None,
    keep_isolated_atoms: KeepIsolatedAtoms = False,
    skip_unconverged: SkipUnconverged = False,
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
        labels=_labels(
            energy=energy_key,
            forces=forces_key,
            stress=stress_key,
            energy_unit=energy_unit,
            length_unit=length_unit,
            forces_unit=forces_unit,
            stress_unit=stress_unit,
            stress_sign=stress_sign,
            elements=elements,
            keep_isolated_atoms=keep_isolated_atoms,
            skip_unconverged=skip_unconverged,
        ),
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
    with _resumable("the same command with --resume goes on"):
        result = learning.learn(settings, resume=resume, progress=progress, say=_say)
    _say(f"Model: {result.model}    report: {settings.run_dir / 'learning.md'}")


@app.command()
def label(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Structures; labels that they have are not looked at.", metavar="FILE..."
        ),
    ],
    out_: Annotated[Path, typer.Option("--out", help="Extended XYZ to write.")],
    labeler: Annotated[str, typer.Option(help="xtb, cp2k, ase or model.")] = "xtb",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Of the labeler: method=GFN1-xTB, template=my.inp, calculator=calc.py:make, "
            "model=teacher.eip; repeatable.",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(help="Every so many frames of each file, from the first.")
    ] = 1,
    workers: Annotated[int, typer.Option(help="Calculations at a time.")] = 1,
    executor: Annotated[
        str, typer.Option(help="processes, serial or parsl:site.py.")
    ] = "processes",
    max_force: Annotated[float, typer.Option(help="Largest force that is believed, eV/Å.")] = 50.0,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Label structures by a reference method (xTB, CP2K, any ASE calculator), many at a time.

    Each calculation is kept in OUT.labels: the same command goes on where it was stopped, and
    tries again what failed.
    """
    from eip.active_learning.labelers import LabelLimits
    from eip.active_learning.labelling import label_frames
    from eip.config import override
    from eip.data.structures import read_structures

    if every < 1:
        raise InputError(f"--every must be at least 1, got {every}")
    options: dict[str, Any] = {}
    for given in option or ():
        override(options, given, "--option")
    structures = {
        name: atoms
        for path in files
        for name, atoms in read_structures(path, index=slice(None, None, every))
    }
    with _resumable(f"finished labels are kept in {out_}.labels, and the same command goes on"):
        done = label_frames(
            structures,
            out_,
            labeler,
            options,
            executor=executor,
            workers=workers,
            limits=LabelLimits(max_force=max_force),
            progress=progress,
            say=lambda text: err.print(text, style="yellow", highlight=False, markup=False),
        )
    left = f", {len(done.failed)} left out" if done.failed else ""
    _say(f"{out_}: {done.labelled} labelled frames{left}; calculations in {done.scratch}")


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
    go_on = f"the same command with --resume goes on in {folder}"
    with _resumable(go_on):
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
    if summary.cause == "interrupted":
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
    forces_unit: ForcesUnit = None,
    stress_unit: StressUnit = None,
    stress_sign: StressSign = None,
    elements: Elements = None,
    keep_isolated_atoms: KeepIsolatedAtoms = False,
    skip_unconverged: SkipUnconverged = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare a store with its checksums; reads all of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is in a model (elements, training, calibration) or a file of frames (labels, ranges)."""
    from eip.workflow import describe_model, is_model, summarize_files

    if verify:
        from eip.data import FrameStore

        with _bar(True, "verifying") as tick:
            FrameStore(path).verify(lambda done, total: tick(done / total))
        err.print(f"{path} is what was written.", highlight=False, markup=False)
    if not is_model(path):
        summary, doubts = summarize_files(
            [path],
            _labels(
                energy=energy_key,
                forces=forces_key,
                stress=stress_key,
                energy_unit=energy_unit,
                length_unit=length_unit,
                forces_unit=forces_unit,
                stress_unit=stress_unit,
                stress_sign=stress_sign,
                elements=elements,
                keep_isolated_atoms=keep_isolated_atoms,
                skip_unconverged=skip_unconverged,
            ),
        )
        if as_json:
            content = {**summary.to_dict(), "doubts": doubts}
            print(json.dumps(content, indent=2, ensure_ascii=False))
        else:
            out.print(summary.table(str(path)))
            for doubt in doubts:
                err.print(f"Warning: {doubt}", style="yellow", highlight=False, markup=False)
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


def _list_data_sets() -> None:
    from eip.data.fetch import catalog

    for data_set in catalog().values():
        size = data_set.size
        how = f" ({size / 1e6:.3g} MB)" if size else ""
        if data_set.by_hand:
            how = " (by hand, from the page)"
        unchecked = any(f.checksum is None for f in data_set.files)
        out.print(f"[bold]{escape(data_set.name)}[/]{how}: {escape(data_set.title)}")
        lines = [
            f"licence: {data_set.licence}",
            f"cite: {data_set.cite}",
            f"page: {data_set.page}",
            f"note: {data_set.note}" if data_set.note else "",
            "checksum: none is published; what is found is kept" if unchecked else "",
        ]
        for line in filter(None, lines):
            out.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)


def _download_bars(shown: bool) -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not shown,
    )


@contextmanager
def _conversion_bar(shown: bool) -> Iterator[Callable[[Converting], None]]:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[frames]:,} frames"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not shown,
        transient=True,
    ) as bars:
        task = bars.add_task("reading", total=None, frames=0)

        def tick(now: Converting) -> None:
            total = None if now.share is None else 1.0
            bars.update(
                task,
                description=now.doing,
                completed=now.share or 0.0,
                total=total,
                frames=now.frames,
            )

        yield tick


@contextmanager
def _bar(shown: bool, what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar that is told what share is done."""
    from rich.progress import Progress

    with Progress(console=err, disable=not shown, transient=True) as bars:
        task = bars.add_task(what, total=1.0)
        yield lambda share: bars.update(task, completed=share)


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
    """Stopped by Ctrl-C or SIGTERM; what was done so far is kept."""


@contextmanager
def _resumable(how: str) -> Iterator[None]:
    """An interrupt inside is told with how to go on."""
    try:
        yield
    except (InterruptedError, KeyboardInterrupt):
        raise Interrupted(f"Interrupted; {how}") from None


#: What Typer makes of a KeyboardInterrupt.
_CAUGHT = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error is one paragraph on stderr and exit code 2.

    Stopped by Ctrl-C it ends with 130, by SIGTERM with 143, as shells count.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    with warnings.catch_warnings(), heeding_termination():
        warnings.showwarning = _show_warning
        try:
            if os.environ.get("EIP_KERNELS"):  # a wrong one is told before anything is begun
                from eip.kernels import variant

                variant()
            code = app(args=given, prog_name="eip", standalone_mode=False)
            if code == _CAUGHT:  # Typer has caught it, and knows of Ctrl-C alone
                raise KeyboardInterrupt
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
        return str(error), exit_code()
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "Interrupted.", exit_code()
    if isinstance(error, InputError):
        return f"Error: {error}", 2
    if what := full_disk(error):
        return f"Error: there is no room left on the disk ({what}); make room, then try again", 2
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
        # Of a rename the second is the name that the user gave.
        return f"Error: {error.filename2 or error.filename}: {error.strerror}", 2
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
