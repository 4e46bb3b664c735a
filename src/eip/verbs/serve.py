"""`eip serve`: a potential at the end of i-PI's socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eip.engines.ipi_driver import EIPDriver
from eip.engines.sockets import serve as answer
from eip.errors import InputError
from eip.potential import Potential


def serve(
    model: str | Path | Potential,
    template: str | Path,
    *,
    address: str = "localhost",
    port: int | None = None,
    unix: str | None = None,
    device: str | None = None,
    tick: Callable[[int], None] = lambda answers: None,
) -> int:
    """Answers i-PI, or another program that speaks its protocol, until that one ends.

    Beside energy, forces and virial go σ and whatever else the potential says, as JSON.

    Args:
        template: a file with one structure, whose elements and periodic directions are those of
            what will be asked for, atom by atom.
        address, port: of the server; port 31415 where None.
        unix: instead of them the name of a Unix socket (/tmp/ipi_NAME) or its path.
        device: "cpu" or "cuda"; None: as the model is.
        tick: is told how many structures were answered, after each.

    Returns:
        how many structures were answered.

    Raises:
        InputError: if a file cannot be read, nobody listens, or the server asks for other atoms
            than the template's.
        NonFinitePrediction: where something predicted is NaN or infinite.
    """
    if unix is not None and port is not None:
        raise InputError("serve takes a port or the name of a Unix socket, got both")
    driver = EIPDriver(model, template, device=device)
    if unix is not None:
        return answer(driver, unix, tick=tick)
    return answer(driver, address, 31415 if port is None else port, tick=tick)
