from __future__ import annotations

import dataclasses
import json

import ase.io
import numpy as np
import pytest

from eip.evaluation import METRIC_KEYS, compute_metrics, write_metrics, write_report
from eip.evaluation import report as report_module


def test_a_report_is_whole(make_evaluation, tmp_path):
    grade = np.linspace(0.1, 3.0, 600)
    evaluation = make_evaluation(extrapolation_grade=grade)
    ood = make_evaluation(seed=1, scale=2.0, extrapolation_grade=grade + 1)
    metrics = compute_metrics(evaluation, ood)
    info = {"kind": "evidential", "elements": [1, 6, 8], "<b>": float("nan")}
    files = write_report(evaluation, metrics, tmp_path / "new", ood=ood, model_info=info)

    stored = json.loads(files.metrics.read_text())
    for key, value in metrics.items():
        assert stored[key] == pytest.approx(value)
        assert stored["_keys"][key] == METRIC_KEYS[key]
    assert set(stored["elements"]) == {"H", "C", "O"}
    assert list(stored["grades"])[-1] == "2 to 4" and "0.5 to 1" not in stored["grades_ood"]

    html = files.html.read_text()
    assert html.count("data:image/png;base64,") == len(files.plots) == 3
    assert "spearman_atom" in html and "OOD" in html
    assert "<h2>By element</h2>" in html and "<h2>By extrapolation grade</h2>" in html
    assert "<b>" not in html and "&lt;b&gt;" in html
    for path in files.plots:
        assert path.read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {
        "metrics.json",
        "report.html",
        "predictions.xyz",
        "predictions_ood.xyz",
        *(path.name for path in files.plots),
    }


def test_predictions_are_read_back(make_evaluation, tmp_path):
    covariance = np.random.default_rng(0).uniform(0.1, 1.0, (600, 3, 3))
    forces = np.random.default_rng(1).normal(size=(600, 3))
    forces[:10] = np.nan
    evaluation = make_evaluation(force_covariance=covariance, forces_true=forces)
    path = tmp_path / "predictions.xyz"
    report_module.write_predictions(evaluation, path)
    frames = ase.io.read(path, ":")
    assert len(frames) == evaluation.n_frames
    second = frames[1]
    of_second = slice(10, 20)
    np.testing.assert_allclose(second.get_forces(), forces[of_second], atol=1e-7)
    np.testing.assert_allclose(
        second.arrays["eip_forces"], evaluation.forces_pred[of_second], atol=1e-7
    )
    np.testing.assert_allclose(
        second.arrays["force_uncertainty"], evaluation.force_uncertainty[of_second], atol=1e-7
    )
    np.testing.assert_allclose(
        second.arrays["force_covariance"].reshape(-1, 3, 3), covariance[of_second], atol=1e-7
    )
    assert second.get_potential_energy() == pytest.approx(evaluation.energy_true[1])
    assert second.info["eip_energy"] == pytest.approx(evaluation.energy_pred[1])
    assert second.info["source"] == "set.xyz#1"
    # A frame without labels has predictions alone, never a predicted number under a label's name.
    assert "forces" not in frames[0].calc.results
    assert "force_error" not in frames[0].arrays
    assert "eip_forces" in frames[0].arrays
    known = set(report_module.PREDICTION_KEYS)
    assert set(second.arrays) - {"numbers", "positions"} <= known
    assert set(second.info) <= known


@pytest.mark.parametrize(
    "changes",
    [
        {"force_uncertainty": None, "uncertainty": None},
        {"forces_true": np.full((600, 3), np.nan), "energy_true": np.full(60, np.nan)},
        {"force_uncertainty": np.full(600, 0.1), "uncertainty": np.full(60, 0.1)},
    ],
    ids=["no uncertainty", "no labels", "constant uncertainty"],
)
def test_what_is_undefined_is_null_and_the_report_still_comes(make_evaluation, tmp_path, changes):
    evaluation = make_evaluation(**changes)
    files = write_report(evaluation, compute_metrics(evaluation), tmp_path)
    assert json.loads(files.metrics.read_text())["spearman_atom"] is None
    assert files.html.exists()


def test_one_atom_has_a_report(make_evaluation, tmp_path):
    evaluation = make_evaluation(n_frames=1, atoms=1)
    files = write_report(evaluation, compute_metrics(evaluation), tmp_path)
    assert files.html.exists()


def test_a_write_that_fails_leaves_the_old_file(make_evaluation, tmp_path, monkeypatch):
    evaluation = make_evaluation()
    path = tmp_path / "predictions.xyz"
    path.write_text("old")
    broken = dataclasses.replace(evaluation, sources=("only one",))
    with pytest.raises(IndexError):
        report_module.write_predictions(broken, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.xyz"]


def test_json_has_neither_nan_nor_infinity(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics({"nll": float("inf"), "n_atoms": 3.0, "crps": float("nan")}, path)
    stored = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert stored["nll"] is None and stored["crps"] is None
    assert stored["n_atoms"] == 3 and isinstance(stored["n_atoms"], int)
