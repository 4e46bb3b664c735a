"""The command line: it parses and prints; what is done is in `eip.verbs`.

Heavy imports are inside the verbs, so that ``eip --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from eip.cli import failures, printing
from eip.cli.app import app
from eip.signals import heeding_termination

# In this order `eip --help` lists the verbs.
# isort: off
import eip.cli.training
import eip.cli.data
import eip.cli.simulation
import eip.cli.learning
import eip.cli.build
import eip.cli.engines
import eip.cli.paper  # noqa: F401
# isort: on

__all__ = ["app", "main"]

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
        warnings.showwarning = failures.show_warning
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
            text, code = failures.explain(error)
            if text:
                printing.err.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code if isinstance(code, int) else 0)
