from __future__ import annotations

import pytest

from eip.errors import InputError, did_you_mean, unknown_elements


def test_an_input_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="a sentence"):
        raise InputError("a sentence")


def test_a_near_key_is_proposed() -> None:
    assert did_you_mean("cuttof", ["cutoff", "channels"]) == "did you mean 'cutoff'?"


def test_without_a_near_key_the_choice_is_shown() -> None:
    assert did_you_mean("qqq", ["cutoff", "channels"]) == "expected one of cutoff, channels"


def test_known_names_may_be_any_iterable() -> None:
    assert did_you_mean("tensr", iter({"tensor": 1, "none": 2})) == "did you mean 'tensor'?"
    assert did_you_mean("xyz", (name for name in ("one", "two"))).endswith("one, two")


def test_unknown_elements_are_named_in_order_and_once() -> None:
    error = unknown_elements([79, 7, 79], [8, 1], "water.xyz#3")
    assert isinstance(error, InputError)
    assert str(error) == (
        "water.xyz#3 holds N, Au, which the potential was not made for; it knows H, O"
    )
