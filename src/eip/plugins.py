"""What is known by a name: eIP's own, and what installed packages add by entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from eip.errors import InputError, did_you_mean


class Registry:
    """Classes or functions by name, imported when they are asked for.

    Args:
        group: of the entry points by which installed packages add to it, "eip.labelers" say. A
            name of eIP's own is not theirs to take.
        what: a word for one of them, for messages.
        own: where each of eIP's is, as "package.module:name".
    """

    def __init__(self, group: str, what: str, own: Mapping[str, str]) -> None:
        self.group, self.what = group, what
        self._own = {name: EntryPoint(name, where, group) for name, where in own.items()}
        self._added: dict[str, Any] = {}

    def add(self, name: str, what: Any) -> None:
        """Makes something known in this process alone, as a notebook may."""
        self._added[name] = what

    @cached_property
    def _known(self) -> dict[str, list[EntryPoint]]:
        known = {name: [point] for name, point in self._own.items()}
        for point in entry_points(group=self.group):
            if point.name not in self._own and point not in known.setdefault(point.name, []):
                known[point.name].append(point)
        return known

    def names(self) -> list[str]:
        """All that there are: eIP's own, then the others by their alphabet."""
        return [*self._own, *sorted((self._known.keys() | self._added.keys()) - self._own.keys())]

    def get(self, name: str) -> Any:
        """What has this name.

        Raises:
            InputError: if nothing has it, or several packages claim it, or its package cannot be
                imported.
        """
        if name in self._added:
            return self._added[name]
        found = self._known.get(name)
        if found is None:
            hint = did_you_mean(name, self.names())
            raise InputError(f"unknown {self.what} '{name}': {hint}")
        if len(found) > 1:
            claims = " and ".join(point.value for point in found)
            raise InputError(
                f"the {self.what} '{name}' is claimed by {claims}; uninstall one of the packages"
            )
        try:
            return found[0].load()
        except Exception as error:
            if name in self._own:
                raise
            raise InputError(
                f"the {self.what} '{name}' ({found[0].value}) cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
