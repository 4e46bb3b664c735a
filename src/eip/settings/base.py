"""What every room's settings are: one validated, frozen class with the meaning of each key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from eip.errors import InputError
from eip.settings.explain import explain

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Settings of one room; YAML, options, docs and the JSON schema are made of the same class.

    Raises:
        InputError: from Python, too, one line for each value that makes no sense.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(explain(error, type(self).__name__, {}, type(self))) from None

    # As pydantic's own RootModel says it: what is nested is checked without the above, so that an
    # error of a file names the whole path of its key.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: Any) -> Any:
        # Else "epochs: yes" would be one epoch. A key that takes true and false has no other type.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("should not be true or false")
        return value

    @classmethod
    def of(cls: type[S], given: Any, name: str) -> S:
        """An argument of Python's as these settings: they may come as a mapping of their keys.

        Args:
            name: of the argument, for the error.

        Raises:
            InputError: if it is neither, or a value makes no sense.
        """
        if isinstance(given, Mapping):
            return cls(**given)
        if not isinstance(given, cls):
            raise InputError(
                f"{name} should be {cls.__name__}, or a mapping of its keys, got {given!r}"
            )
        return given

    def replace(self: S, **changes: Any) -> S:
        """The same with some values changed, checked again."""
        return type(self)(
            **{**{key: getattr(self, key) for key in self.model_fields_set}, **changes}
        )

    def to_dict(self) -> dict[str, Any]:
        """Values as JSON has them; the class reads them back."""
        return self.model_dump(mode="json")
