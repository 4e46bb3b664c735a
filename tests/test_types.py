"""The tests check shapes and types (conftest.py): what is wrong is seen, and goes on being seen."""

from __future__ import annotations

import os

import pytest
import torch
from jaxtyping import TypeCheckError

from eip.uncertainty.distributions import nig_nll
from eip.uncertainty.names import METHODS

pytestmark = pytest.mark.skipif(
    os.environ.get("EIP_TEST_TYPES") == "0", reason="EIP_TEST_TYPES=0: no types are checked"
)


def test_a_shape_that_does_not_fit_is_seen() -> None:
    """Which PyTorch would take for a broadcast."""
    three, one = torch.ones(3), torch.ones(1)
    with pytest.raises(TypeCheckError, match="alpha"):
        nig_nll(three, three, one + 1.0, three)


def test_a_type_that_does_not_fit_is_seen() -> None:
    with pytest.raises(TypeCheckError, match="name"):
        METHODS.get(1)


def test_a_class_of_data_is_checked() -> None:
    from eip.uncertainty.calibration import Calibration

    with pytest.raises(TypeCheckError, match="factor"):
        Calibration("scale", "1.0", {}, (0.5,), (1.0,), 1, 1, "")


def test_calls_go_on_being_checked() -> None:
    three, one = torch.ones(3), torch.ones(1)
    seen = 0
    for _ in range(200):
        try:
            nig_nll(three, three, one + 1.0, three)
        except TypeCheckError:
            seen += 1
    assert seen > 20


def test_each_test_begins_anew() -> None:
    """Whatever the one before it called."""
    three, one = torch.ones(3), torch.ones(1)
    for _ in range(20):
        with pytest.raises(TypeCheckError):
            nig_nll(three, three, one + 1.0, three)
