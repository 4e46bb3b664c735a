"""SevenNet l3i5 as a reference method, `labeler: ase`: pip install "eip[sevenn]"."""

from __future__ import annotations

from ase.calculators.calculator import Calculator
from sevenn.calculator import SevenNetCalculator


def make() -> Calculator:
    return SevenNetCalculator("7net-l3i5", device="cpu")
