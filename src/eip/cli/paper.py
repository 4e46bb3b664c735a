"""`eip reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eip.cli.app import app
from eip.cli.failures import resumable
from eip.cli.printing import show


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
        typer.Option("--set", metavar="KEY=VALUE", help="In place of ours: training.epochs=5"),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """One of the paper's figures: trained, evaluated, drawn, beside what the paper says.

    Goes on where it was stopped."""
    from eip.paper import reproduce as paper

    with resumable("the same command goes on"):
        made = paper.reproduce(
            paper.figure_named(figure),
            data,
            out_,
            scale=paper.scale_named(scale),
            changes=set_ or (),
            progress=progress,
            log=show,
        )
    show(f"Figure: {made.plot}    table: {made.table}")
