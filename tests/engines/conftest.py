from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import eip
from eip.uncertainty.evidential import EvidentialPotential


def network(elements: tuple[int, ...] = (1, 8, 14), **settings: Any) -> EvidentialPotential:
    """Small, with weights as they are drawn, and a σ that differs between atoms."""
    torch.manual_seed(0)
    return EvidentialPotential(
        **{
            "elements": elements,
            "element_energies": {z: -70.0 * z for z in elements},
            "force_scale": 1.3,
            "head": "tensor",
            "channels": 16,
            "interactions": 2,
            "cutoff": 4.0,
            **settings,
        }
    ).eval()


@pytest.fixture(scope="session")
def model() -> EvidentialPotential:
    return network()


@pytest.fixture(scope="session")
def model_file(model: EvidentialPotential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.eip"
    eip.save(model, path)
    return path
