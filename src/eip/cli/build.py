"""`eip build`: structures to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eip.cli.app import app
from eip.cli.options import Progress
from eip.cli.printing import bar, show

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
    progress: Progress = True,
) -> None:
    """A melt of poly(dimethylsiloxane), chains grown in the box and relaxed; ends H and OH."""
    from eip import builders

    with bar(progress, "relaxing") as tick:
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
    progress: Progress = True,
) -> None:
    """A box of liquid water, melted by a classical force field (rigid TIP3P)."""
    from eip import builders

    with bar(progress, "melting") as tick:
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
    show(f"{path}: {len(atoms)} atoms, {atoms.get_chemical_formula()}{cell}")
