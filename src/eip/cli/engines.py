"""`eip serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eip.cli.app import app
from eip.cli.options import Device, Model
from eip.cli.printing import show


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
