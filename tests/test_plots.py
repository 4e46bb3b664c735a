from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from eip import plots

GENERATOR = np.random.default_rng(0)


def drawn(figure) -> bool:
    figure.canvas.draw()
    return True


def texts(ax) -> str:
    return " ".join(t.get_text() for t in ax.texts)


def test_a_figure_is_saved_whole_or_not_at_all(tmp_path):
    figure = plots.new_figure(1, 2)
    path = plots.save_figure(figure, tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "b.nonsense").write_text("old")
    with pytest.raises(ValueError, match="nonsense"):
        plots.save_figure(figure, tmp_path / "b.nonsense")
    assert (tmp_path / "b.nonsense").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.nonsense"]


def test_no_global_state_of_matplotlib_is_touched():
    code = (
        "import sys; from eip import plots; assert 'matplotlib' not in sys.modules\n"
        "import io, matplotlib; before = matplotlib.rcParams.copy()\n"
        "figure = plots.new_figure(); plots.parity(figure.axes[0], [1, 2], [1, 3],"
        " quantity='force', unit='eV/Å'); figure.canvas.draw()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize("n", [0, 1, 300, 5000])
def test_parity_states_the_error(n):
    ax = plots.new_figure().axes[0]
    true = GENERATOR.normal(size=n)
    plots.parity(ax, true, true + 0.05, quantity="force component", unit="eV/Å")
    assert ax.get_xlabel() == "reference force component (eV/Å)"
    assert ("MAE 50 meV/Å" in texts(ax)) if n else ("no data" in texts(ax))
    assert drawn(ax.figure)


@pytest.mark.parametrize("n", [0, 1, 300, 5000])
def test_uncertainty_against_error(n):
    ax = plots.new_figure().axes[0]
    sigma = GENERATOR.uniform(0.01, 1.0, n)
    error = sigma * np.abs(GENERATOR.normal(size=n))
    error[:1] = np.nan
    plots.uncertainty_against_error(ax, sigma, error, note="Spearman 0.5")
    assert "eV/Å" in ax.get_xlabel() and "eV/Å" in ax.get_ylabel()
    assert drawn(ax.figure)


def test_a_constant_uncertainty_is_drawn():
    ax = plots.new_figure().axes[0]
    plots.uncertainty_against_error(ax, np.full(3000, 0.1), GENERATOR.uniform(0.01, 1, 3000))
    assert drawn(ax.figure)


def test_curves_name_their_area_and_leave_out_undefined_ones():
    figure = plots.new_figure(1, 3)
    line = np.linspace(0, 1, 5)
    curves = {"good": (line, line**2, 0.25), "undefined": (line, line * np.nan, float("nan"))}
    plots.roc_curves(figure.axes[0], curves)
    plots.calibration_curves(figure.axes[1], curves)
    for ax in figure.axes[:2]:
        labels = [t.get_text() for t in ax.get_legend().get_texts()]
        assert "good: 0.250" in labels
        assert not any("undefined" in label for label in labels)
    plots.retention(figure.axes[2], line, 0.1 + line, line)
    assert figure.axes[2].lines[1].get_ydata()[0] == pytest.approx(100.0)  # meV/Å
    assert drawn(figure)


def test_training_curves_take_the_columns_they_know():
    figure = plots.training_curves(
        {
            "epoch": [1, 2, 3],
            "train_loss": [3.0, 2.0, np.nan],
            "val_force_mae": [0.3, 0.2, 0.1],
            "learning_rate": [1e-3, 1e-3, 1e-4],
            "seconds": [1, 2, 3],
        }
    )
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "loss",
        "force error (eV/Å)",
        "learning rate",
    ]
    assert len(figure.axes[0].lines[0].get_xdata()) == 2
    assert drawn(figure)
    assert drawn(plots.training_curves({}))


def test_dynamics_overlays_runs_and_writes_how_they_ended():
    time = np.arange(0.0, 100.0, 1.0)
    md = {"time": time, "energy": -3 + 0 * time, "temperature": 300 + time, "uncertainty": time}
    udd = {"time": time[:40], "energy": time[:40], "uncertainty": time[:40]}
    figure = plots.dynamics(
        {"MD": md, "UDD": udd}, threshold=50.0, endings={"MD": "finished", "UDD": "collapsed"}
    )
    energy, temperature, uncertainty = figure.axes
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["MD: finished", "UDD: collapsed"]
    assert energy.lines[0].get_xdata()[-1] == pytest.approx(0.099)  # ps
    assert "threshold 50" in texts(uncertainty)
    assert len(temperature.lines) < len(energy.lines)  # UDD brought no temperature
    assert drawn(figure)
    assert drawn(plots.dynamics({"MD": {"time": [], "energy": []}}))
