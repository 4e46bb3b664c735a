"""`eip info --device` where there is a card, and where there should be one and is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ase.build import molecule

from eip.errors import GPUMemoryFull
from eip.graph import AtomGraph
from eip.neighbors import build_graph
from eip.prediction import Prediction
from eip.uncertainty.evidential import EvidentialPotential
from eip.verbs import device


def test_a_card_is_named_with_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="Some Card", total_memory=80 * 2**30)
    monkeypatch.delenv("EIP_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(device, "library", lambda: None)
    for reason, said in ((None, "Triton's"), ("no compiler", "none, plain PyTorch: no compiler")):
        monkeypatch.setattr(device, "why_not", lambda _, reason=reason: reason)
        found = device.describe_device()
        assert found["GPU"] == ["Some Card, 80 GiB"] and found["runs by default on"] == "cuda"
        assert found["PyTorch"].endswith("built for CUDA 12.8")
        assert found["kernels on a GPU"] == said


def test_why_a_card_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\nPlease …")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(device, "library", lambda: None)
    assert device.describe_device()["GPU"] == "none: Found no NVIDIA driver on your system."


def test_a_full_memory_is_told_with_the_size_of_what_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> Prediction:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    potential = EvidentialPotential(
        elements=[1, 8],
        element_energies={1: 0.0, 8: 0.0},
        force_scale=1.0,
        backbone="painn",
        channels=16,
        interactions=1,
    )
    monkeypatch.setattr(potential, "forward", full)
    graph: AtomGraph = build_graph(molecule("H2O"), potential.cutoff)
    with pytest.raises(GPUMemoryFull, match=r"3 atoms with 6 pairs.*training\.max_atoms"):
        potential(graph)
