"""Potentials as data: what must be written down to build one again.

A potential that can be kept has a ``kind``, by which `eip.uncertainty.names.POTENTIALS` knows it,
JSON-able ``settings()`` and a classmethod ``from_settings``; weights travel apart from them.
Building from a description runs no code that the description brings, so a file from a stranger is
safe to open.

What is round another potential holds its description under ``potential``, what is made of several
theirs under ``potentials``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from eip.potential import Potential
from eip.uncertainty.names import POTENTIALS


@runtime_checkable
class Describable(Protocol):
    """What a potential needs to be kept in a file."""

    kind: ClassVar[str]

    def settings(self) -> dict[str, Any]: ...

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Potential: ...


def describe_potential(potential: Potential) -> dict[str, Any]:
    """``{"kind": …, "settings": …}``, enough to build the potential again but for its weights.

    Raises:
        TypeError: if this kind of potential cannot be kept.
    """
    if not isinstance(potential, Describable) or potential.kind not in POTENTIALS.names():
        raise TypeError(f"a {type(potential).__name__} cannot be kept in a file")
    return {"kind": potential.kind, "settings": potential.settings()}


def build_potential(kind: str, settings: dict[str, Any]) -> Potential:
    """A potential with fresh weights.

    Raises:
        InputError: if the kind is unknown.
    """
    made: Potential = POTENTIALS.get(kind).from_settings(settings)
    return made


def inside(description: dict[str, Any]) -> list[dict[str, Any]]:
    """The descriptions of the potentials that a described one is round or made of."""
    settings = description["settings"]
    one = settings.get("potential")
    return [one] if one is not None else list(settings.get("potentials", ()))
