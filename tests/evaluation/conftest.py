from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from eip.evaluation import Evaluation


def _make_evaluation(
    n_frames: int = 60, atoms: int = 10, seed: int = 0, scale: float = 1.0, **changes: object
) -> Evaluation:
    """Errors drawn from N(0, σ_i²), energies 10 meV/atom off: every measure has a known answer."""
    generator = np.random.default_rng(seed)
    n = n_frames * atoms
    frame = np.repeat(np.arange(n_frames), atoms)
    sigma = scale * np.exp(generator.normal(-3.0, 0.7, n))
    forces = generator.normal(0.0, 1.0, (n, 3))
    energy = generator.normal(-100.0, 1.0, n_frames)
    stress = generator.normal(0.0, 0.01, (n_frames, 3, 3))
    values = {
        "numbers": generator.choice([1, 6, 8], n),
        "frame": frame,
        "positions": generator.normal(0.0, 3.0, (n, 3)),
        "cell": np.zeros((n_frames, 3, 3)),
        "pbc": np.zeros((n_frames, 3), dtype=bool),
        "energy_true": energy,
        "energy_pred": energy + 0.010 * atoms * generator.choice([-1.0, 1.0], n_frames),
        "forces_true": forces,
        "forces_pred": forces - sigma[:, None] * generator.normal(0.0, 1.0, (n, 3)),
        "stress_true": stress,
        "stress_pred": stress + 0.002,
        "force_uncertainty": sigma,
        "uncertainty": np.bincount(frame, sigma) / atoms,
        "energy_uncertainty": np.full(n_frames, 0.012 * atoms),
        "sources": tuple(f"set.xyz#{i}" for i in range(n_frames)),
    }
    return Evaluation(**(values | changes))


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    return _make_evaluation
