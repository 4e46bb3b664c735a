"""A driver at the other end of i-PI's socket, for i-PI and whatever speaks its protocol."""

from __future__ import annotations

import socket
from collections.abc import Callable

import numpy as np
from ase.calculators.socketio import IPIProtocol, SocketClosed

from eip.engines.ipi_driver import EIPDriver, Said
from eip.errors import InputError

#: Where i-PI and ASE put Unix sockets.
UNIX_PREFIX = "/tmp/ipi_"


def connected(address: str, port: int | None) -> socket.socket:
    """A socket to the server.

    Args:
        address: host; or, without a port, the name of a Unix socket: i-PI's, whose file is
            /tmp/ipi_NAME, or a path.

    Raises:
        InputError: if nobody listens there.
    """
    path = address if "/" in address else f"{UNIX_PREFIX}{address}"
    where = path if port is None else f"{address}:{port}"
    try:
        if port is None:
            made = socket.socket(socket.AF_UNIX)
            made.connect(path)
        else:
            made = socket.create_connection((address, port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise InputError(f"nobody listens at {where} ({error}): start the server first") from error
    return made


def serve(
    driver: EIPDriver,
    address: str,
    port: int | None = None,
    *,
    tick: Callable[[int], None] = lambda answers: None,
) -> int:
    """Answers until the server ends or closes the connection.

    Args:
        address, port: see `connected`.
        tick: is told how many structures were answered, after each.

    Returns:
        how many structures were answered.

    Raises:
        InputError: if nobody listens, or the server asks for other atoms than the driver's.
        RuntimeError: if it sends what the protocol does not have.
    """
    answers = 0
    answer: Said | None = None
    with connected(address, port) as connection:
        protocol = IPIProtocol(connection)
        while True:
            try:
                message = protocol.recvmsg()
            except (SocketClosed, ConnectionResetError):
                return answers
            if message == "EXIT":
                return answers
            if message == "STATUS":
                protocol.sendmsg("READY" if answer is None else "HAVEDATA")
            elif message == "INIT":
                protocol.recvinit()
            elif message == "POSDATA":
                cell, _, positions = protocol.recvposdata()
                (answer,) = driver.evaluate(cell[None], positions[None])
            elif message == "GETFORCE" and answer is not None:
                extras = np.frombuffer(answer.extras.encode(), dtype=np.byte)
                protocol.sendforce(answer.energy, answer.forces, answer.virial, extras)
                answer = None
                answers += 1
                tick(answers)
            else:
                raise RuntimeError(f"the server at {address} sent '{message}', out of turn")
