"""Potentials of others as rows of `eip compare`, and the difference of two as an error bar."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from eip import evaluation
from eip.active_learning.labelers.calculator import calculator_function
from eip.config import Config
from eip.data import FrameStore
from eip.errors import InputError, did_you_mean
from eip.evaluation import Evaluation, compute_metrics
from eip.graph import AtomGraph
from eip.model_file import load_model, read_model_info, save_model
from eip.models.settings import BACKBONES, BackboneSettings, backbone_settings
from eip.potential import Differentiable, Potential, prepared
from eip.prediction import Prediction
from eip.uncertainty.calibration import fit_calibration
from eip.verbs.attach import MOST, Frames, attached_to
from eip.verbs.costs import predicting_seconds
from eip.verbs.evaluate import without_energies
from eip.verbs.frames import dataset_for, loader, open_labelled, split
from eip.verbs.memory import timed_batch
from eip.verbs.messages import Log

#: Predictions of which the median is the time of one.
_ROUNDS = 5


class CalculatorPotential(Potential):
    """What an ASE calculator says of energy and forces; it has no error bar.

    Args:
        calculator: of ASE.
        name: for errors.
    """

    cutoff = 1.0
    elements = tuple(range(1, 119))
    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, calculator: Any, name: str) -> None:
        super().__init__()
        self.calculator, self.name = calculator, name

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        energies, of_atoms = [], []
        for frame in range(graph.n_frames):
            own = graph.frame == frame
            atoms = Atoms(
                numbers=graph.numbers[own].numpy(),
                positions=graph.positions[own].detach().numpy(),
                cell=graph.cell[frame].numpy(),
                pbc=graph.pbc[frame].numpy(),
                calculator=self.calculator,
            )
            try:
                energies.append(float(atoms.get_potential_energy()))
                of_atoms.append(torch.tensor(np.asarray(atoms.get_forces(), dtype=np.float64)))
            except Exception as error:
                raise InputError(f"{self.name}: {error or type(error).__name__}") from error
        return Prediction(
            energy=torch.tensor(energies, dtype=torch.float64), forces=torch.cat(of_atoms)
        )


@dataclass(frozen=True)
class Rival:
    """A row: what was measured, keys as in metrics.json, and the predictions of test frames."""

    metrics: dict[str, float]
    measured: Evaluation


def rival_rows(
    names: Sequence[str], config: Config, plain: Path, *, progress: bool, log: Log
) -> dict[str, Rival]:
    """By label: each rival, and of each two of them their difference as an error bar of the first.

    A network of a package is given an error bar by the training and validation frames, as
    `eip attach` does it; an ASE calculator has none. The difference of two is calibrated on the
    validation frames.

    Args:
        names: of networks that others trained (chgnet), model files, or functions that make an ASE
            calculator: "file.py:function", "package.module:function".
        plain: the model that times are compared with.

    Raises:
        InputError: if a rival is none of these, or cannot be asked of the frames.
    """
    data = config.data
    files = {"train": data.train, "test": data.test, "ood": data.ood}
    if isinstance(data.validation, list):
        files["validation"] = data.validation
    stores = {
        name: open_labelled(paths, data.label_keys(), ("forces",))
        for name, paths in files.items()
        if paths
    }
    chosen = split(config, stores)
    sets = {name: (stores.get(name, stores["train"]), which) for name, which in chosen.items()}
    potentials = {
        label: _potential(name, sets, config, progress, log) for label, name in _labels(names)
    }
    said: dict[str, dict[str, Evaluation]] = {
        label: {
            name: without_energies(
                evaluation.evaluate(
                    potential, loader(dataset_for(store, potential, which)), progress=progress
                )
            )
            for name, (store, which) in sets.items()
            if name != "train"
        }
        for label, potential in potentials.items()
    }
    costs = _costs(potentials, config, load_model(plain))
    for one, other in combinations(potentials, 2):
        label = f"{one} − {other}"
        said[label] = _difference(said[one], said[other])
        costs[label] = costs[one] + costs[other]
    return {
        label: Rival(
            {
                **_numbers(compute_metrics(of["test"], of.get("ood"))),
                "prediction_cost": costs[label],
            },
            of["test"],
        )
        for label, of in said.items()
    }


def check_rivals(names: Sequence[str]) -> None:
    """Refuses before anything is trained, as far as it can be known, what is no rival.

    Raises:
        InputError: as `rival_rows`.
    """
    for _, name in _labels(names):
        if name.endswith(".eip"):
            read_model_info(name)
        elif ":" in name:
            calculator_function(name)
        else:
            _settings(name)


def _labels(names: Sequence[str]) -> list[tuple[str, str]]:
    """What a row is called: the name, without the folders of a file."""
    labels = [name.rpartition("/")[2] for name in names]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"two rivals are called {label}: name each once")
    return list(zip(labels, names, strict=True))


def _settings(name: str) -> BackboneSettings:
    known = BACKBONES.names()
    if name not in known:
        meant = did_you_mean(name, known)
        raise InputError(
            f"rival '{name}': expected a network that others trained ({meant}), a model.eip, or "
            "'file.py:function' or 'package.module:function', which makes an ASE calculator"
        )
    return backbone_settings(name).pretrained()


def _potential(
    name: str,
    sets: Mapping[str, Frames],
    config: Config,
    progress: bool,
    log: Log,
) -> Potential:
    if name.endswith(".eip"):
        return load_model(name)
    if ":" in name:
        return CalculatorPotential(calculator_function(name)(), name)
    settings = _settings(name)
    kept = config.run_dir / "rivals" / f"{name}.eip"
    asked = {
        "config": {"data": config.data.to_dict(), "training": {"energy_weight": 0.0}},
        "seed": config.training.seed,
        "frames": {n: _content(sets[n][0]) for n in ("train", "validation")},
    }
    if kept.is_file() and asked.items() <= read_model_info(kept)["info"].items():
        return load_model(kept)
    store, which = sets["train"]
    if len(which) > MOST:
        drawn = np.random.default_rng(config.training.seed).choice(which, MOST, replace=False)
        which = np.sort(drawn)
    made = attached_to(
        *(settings, (store, which), sets["validation"]),
        seed=config.training.seed,
        device="cuda" if torch.cuda.is_available() else "cpu",
        progress=progress,
        log=log,
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_model(made.potential, kept, asked)
    return made.potential


def _content(store: FrameStore) -> dict[str, str]:
    """Sums of what frames hold, wherever they came from."""
    return {name: value for name, value in store.checksums().items() if name != "source"}


def _difference(
    of: Mapping[str, Evaluation], other: Mapping[str, Evaluation]
) -> dict[str, Evaluation]:
    """What one says, with its distance from the other as σ, calibrated on validation frames."""

    def with_sigma(
        name: str, sigma: np.ndarray, interval: Mapping[float, float] | None
    ) -> Evaluation:
        said = of[name]
        by_frame = np.bincount(said.frame, sigma, minlength=said.n_frames) / said.n_atoms
        return replace(
            said,
            force_uncertainty=sigma,
            uncertainty=by_frame,
            force_covariance=None,
            force_aleatoric=None,
            extrapolation_grade=None,
            energy_uncertainty=None,
            interval=interval,
            others={},
        )

    gaps = {
        name: np.linalg.norm(said.forces_pred - other[name].forces_pred, axis=1).clip(min=1e-6)
        for name, said in of.items()
    }
    held_out = of["validation"]
    fitted = fit_calibration(
        held_out.force_error, gaps["validation"], held_out.numbers, frames=held_out.frame
    )
    interval = dict(zip(fitted.interval_levels, fitted.interval_widths, strict=True))
    return {
        name: with_sigma(name, fitted.calibrated(gap, of[name].numbers), interval)
        for name, gap in gaps.items()
    }


def _costs(
    potentials: Mapping[str, Potential], config: Config, plain: Potential
) -> dict[str, float]:
    """Time of a prediction over that of the plain potential, in turn, medians."""
    every = {"": prepared(plain), **{label: prepared(p) for label, p in potentials.items()}}
    batches = {label: timed_batch(config, potential) for label, potential in every.items()}
    seconds: dict[str, list[float]] = {label: [] for label in every}
    for _ in range(_ROUNDS):
        for label, potential in every.items():
            seconds[label].append(predicting_seconds(potential, batches[label]))
    medians = {label: statistics.median(of) for label, of in seconds.items()}
    return {label: medians[label] / medians[""] for label in potentials}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and np.isfinite(v)
    }
