"""`eip serve`, `eip export`, `eip lammps`: models in other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eip.cli.app import app
from eip.cli.options import Device, Model
from eip.cli.printing import show

lammps = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(lammps, name="lammps", help="The plugin that runs models in LAMMPS.")


@app.command()
def serve(
    model: Model,
    template: Annotated[
        Path, typer.Argument(help="A structure with the elements that will be asked for, in order.")
    ],
    address: Annotated[str, typer.Option(help="Host of the server.")] = "localhost",
    port: Annotated[int | None, typer.Option(help="Its port; 31415 by default.")] = None,
    unix: Annotated[
        str | None, typer.Option(help="Instead: name of i-PI's Unix socket, or a path.")
    ] = None,
    device: Device = None,
) -> None:
    """Answer i-PI over its socket, σ in the extras, until the run ends."""
    from eip.verbs import serve as verb

    answered = verb.serve(model, template, address=address, port=port, unix=unix, device=device)
    show(f"The server has ended; {answered:,} structures were answered.")


@app.command()
def export(
    model: Model,
    for_: Annotated[
        str, typer.Option("--for", metavar="PROGRAM", help="lammps or metatomic.")
    ] = "lammps",
    out: Annotated[
        Path | None, typer.Option(help="By default beside MODEL: model.lmp.eip, model.pt.")
    ] = None,
) -> None:
    """Write a model as another program takes it."""
    from eip.verbs import export as verb

    show(f"Wrote {verb.export(model, for_, out)}")


@lammps.command()
def build(
    out: Annotated[Path, typer.Option(help="Where to put the plugin.")] = Path("eippair.so"),
    lammps_include: Annotated[
        Path | None,
        typer.Option(help="Folder of LAMMPS' headers; by default of the one in this environment."),
    ] = None,
    mpicxx: Annotated[
        str | None, typer.Option(help="Compiler of the MPI that LAMMPS runs with.")
    ] = None,
    march: Annotated[
        str, typer.Option(help="The processor, as the compiler names it: that of the nodes.")
    ] = "native",
) -> None:
    """Compile LAMMPS' plugin, and print the lines of an input script that use it."""
    from eip.engines.lammps import build as verb

    built = verb(out, lammps_include=lammps_include, mpicxx=mpicxx, march=march)
    how = "was compiled before" if built.cached else "compiled"
    show(f"{built.path}: {how}, for LAMMPS {built.lammps.version}. In an input script:")
    print(f"plugin load {built.path}\npair_style eip\npair_coeff * * MODEL.lmp.eip ELEMENT ...")
