"""The command `eip` itself; the verbs are in the modules beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from eip._version import __version__
from eip.cli import printing

app = typer.Typer(
    name="eip",
    help="Machine-learning interatomic potentials that know their own error.\n\n"
    "All figures are in eV, Å, eV/Å, fs and K.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> bool:
    if wanted:
        printing.show(f"eip {__version__}")
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
    """Options before the verb; --debug is read by `eip.cli.main`."""
