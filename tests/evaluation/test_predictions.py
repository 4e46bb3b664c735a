from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor, nn

from eip.errors import InputError
from eip.evaluation import calibrate, compute_metrics, evaluate
from eip.graph import AtomGraph
from eip.neighbors import build_graph
from eip.potential import Differentiable, Potential
from eip.prediction import Prediction


@dataclass(frozen=True)
class Labelled:
    graph: AtomGraph
    energy: Float[Tensor, "frames"] | None
    forces: Float[Tensor, "atoms 3"] | None
    sources: tuple[str, ...]
    stress: None = None


class Springs(Potential):
    """Atoms tied to the origin; σ_i grows with the distance from it."""

    def __init__(self, has_sigma: bool = True) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.has_sigma = has_sigma
        self.modes: list[bool] = []

    cutoff = property(lambda self: 3.0)
    elements = property(lambda self: (1, 8))

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        self.modes.append(self.training)
        squared = (graph.positions**2).sum(1)
        sigma = 0.1 * (1 + squared).sqrt() if self.has_sigma else None
        return Prediction(
            energy=graph.sum_by_frame(0.5 * self.strength * squared),
            forces=-self.strength * graph.positions,
            force_uncertainty=sigma,
            uncertainty=None if sigma is None else graph.mean_by_frame(sigma),
        )


def batch_of(sizes: list[int], seed: int, *, energy: bool = True, forces: bool = True) -> Labelled:
    generator = np.random.default_rng(seed)
    structures = [
        Atoms("H" * (n - 1) + "O", positions=generator.normal(0, 1.5, (n, 3))) for n in sizes
    ]
    graph = build_graph(structures, 3.0)
    positions = graph.positions.numpy()
    sigma = 0.03 * np.sqrt(1 + (positions**2).sum(1))  # a third of what Springs says
    noisy = -positions + sigma[:, None] * generator.normal(size=positions.shape)
    return Labelled(
        graph=graph,
        energy=torch.arange(float(len(sizes)), dtype=torch.float64) if energy else None,
        forces=torch.as_tensor(noisy) if forces else None,
        sources=tuple(f"{seed}.xyz#{i}" for i in range(len(sizes))),
    )


def test_batches_follow_each_other():
    first, second = batch_of([2, 3], 0), batch_of([4], 1)
    evaluation = evaluate(Springs(), [first, second], progress=False)
    assert evaluation.frame.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert evaluation.n_atoms.tolist() == [2, 3, 4]
    assert evaluation.sources == ("0.xyz#0", "0.xyz#1", "1.xyz#0")
    np.testing.assert_array_equal(evaluation.forces_pred, -evaluation.positions)
    np.testing.assert_array_equal(evaluation.energy_true, [0, 1, 0])
    assert evaluation.interval is None
    assert evaluation.force_covariance is None


def test_the_batches_are_those_of_any_iterable_and_how_they_are_cut_changes_nothing():
    a, b = batch_of([3, 2], 0), batch_of([4, 1], 1)
    whole = evaluate(Springs(), (x for x in [a, b]), progress=True)
    again = evaluate(Springs(), [a, b], progress=False)
    np.testing.assert_equal(compute_metrics(whole), compute_metrics(again))


def test_missing_labels_are_nan():
    batches = [batch_of([2], 0, energy=False), batch_of([3], 1, forces=False)]
    evaluation = evaluate(Springs(), batches, progress=False)
    assert np.isnan(evaluation.energy_true).tolist() == [True, False]
    assert np.isnan(evaluation.forces_true).all(axis=1).tolist() == [False] * 2 + [True] * 3


def test_training_mode_comes_back():
    potential = Springs().train()
    evaluate(potential, [batch_of([2], 0)], progress=False)
    assert potential.modes == [False]
    assert potential.training


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(InputError, match="at least one frame"):
        evaluate(Springs(), [], progress=False)


def test_a_prediction_that_is_not_finite_is_named():
    class Broken(Springs):
        def forward(self, graph, **options):
            prediction = super().forward(graph, **options)
            prediction.forces[2, 1] = float("nan")
            return prediction

    with pytest.raises(InputError, match=r"forces is not finite for 5\.xyz#1"):
        evaluate(Broken(), [batch_of([2, 2], 5)], progress=False)


def test_calibrate_makes_the_coverage_right_on_other_frames():
    potential = Springs()
    validation = evaluate(potential, [batch_of([8] * 60, 0)], progress=False)
    test = [batch_of([8] * 120, 1)]
    raw = compute_metrics(evaluate(potential, test, progress=False))
    calibrated = calibrate(potential, validation)
    evaluation = evaluate(calibrated, test, progress=False)
    metrics = compute_metrics(evaluation)
    assert raw["coverage_80"] > 0.99
    for level in (50, 80, 95):
        assert metrics[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.03)
    assert metrics["miscalibration_area"] < 0.02 < raw["miscalibration_area"]
    assert metrics["nll"] < raw["nll"]
    assert metrics["spearman_atom"] == pytest.approx(raw["spearman_atom"], abs=0.05)
    assert evaluation.interval is not None
    assert calibrated.calibration.n_frames == 60

    with pytest.raises(InputError, match="calibrated already"):
        calibrate(calibrated, evaluation)


def test_a_potential_without_sigma_cannot_be_calibrated():
    potential = Springs(has_sigma=False)
    evaluation = evaluate(potential, [batch_of([3], 0)], progress=False)
    with pytest.raises(InputError, match="this potential has none"):
        calibrate(potential, evaluation)
