from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from eip.data import Frame


@pytest.fixture
def make() -> Callable[..., Frame]:
    """Makes frames whose atoms sit on a loose grid, so that none come close."""

    def frame(
        n: int = 3,
        seed: int = 0,
        *,
        numbers: list[int] | None = None,
        periodic: bool = False,
        energy: bool = True,
        forces: bool = True,
        stress: bool = False,
        source: str | None = None,
    ) -> Frame:
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
        z = np.array(numbers) if numbers is not None else rng.choice([1, 6, 8], n)
        n = len(z)
        return Frame(
            numbers=z.astype(np.int64),
            positions=1.5 * grid[rng.permutation(216)[:n]] + rng.uniform(-0.2, 0.2, (n, 3)),
            cell=np.eye(3) * 9.0 + rng.uniform(-0.5, 0.5, (3, 3)) if periodic else np.zeros((3, 3)),
            pbc=np.full(3, periodic),
            energy=float(rng.normal(-1e4)) if energy else None,
            forces=rng.normal(size=(n, 3)) if forces else None,
            stress=(lambda s: s + s.T)(rng.normal(size=(3, 3))) if stress and periodic else None,
            source=f"made.xyz#{seed}" if source is None else source,
        )

    return frame
