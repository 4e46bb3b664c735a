"""A network that others trained and its error bar, trained on by `eip attach --finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from eip.config import Config, DataConfig, ModelConfig
from eip.data import open_frames
from eip.model_file import load_model
from eip.potential import Potential
from eip.training.settings import TrainingSettings
from eip.verbs.messages import Log
from eip.verbs.train import train

#: Passes over the training frames, and the learning rate.
EPOCHS, RATE = 10, 1e-3


def finetuned(
    folder: Path,
    layers: str,
    info: dict[str, Any],
    seed: int,
    device: str,
    progress: bool,
    log: Log,
) -> Potential:
    """What a training makes of begun.eip on the frames beside it; ``info`` becomes its own."""
    stores = [folder / name for name in ("training", "held_out")]
    with_energies = all(open_frames([store]).has("energy").all() for store in stores)
    config = Config(
        run_dir=folder / "run",
        data=DataConfig(train=[stores[0]], validation=[stores[1]]),
        model=ModelConfig(start_from=folder / "begun.eip"),
        training=TrainingSettings(
            layers="last" if layers == "last" else "all",
            epochs=EPOCHS,
            learning_rate=RATE,
            energy_weight=1.0 if with_energies else 0.0,
            seed=seed,
            device="cuda" if device.startswith("cuda") else "cpu",
        ),
    )
    run = train(config, progress=progress, log=log)
    if run.model is None:
        raise InterruptedError("stopped while fine-tuning; nothing was written")
    before = info["metrics"]
    log(before_and_after(before, run.metrics))
    info["config"]["training"] = config.training.to_dict()
    info["training"] |= {
        "finetuned": layers,
        "best_epoch": run.result.best_epoch,
        "metrics_before": before,
    }
    info["metrics"] = finite(run.metrics)
    return load_model(run.model, device=device)


#: Of what fine-tuning is to change, and what it is to leave: key, words, factor, digits. σ is
#: calibrated on the same frames, so its coverage would say nothing.
_ROWS = (
    ("force_mae", "force error (MAE of a component), meV/Å", 1000.0, 1),
    ("energy_mae_per_atom", "energy error (MAE), meV/atom", 1000.0, 1),
    ("spearman_atom", "rank correlation of σ and error, atoms", 1.0, 3),
    ("roc_auc_atom", "σ finds the worst atoms (ROC-AUC)", 1.0, 3),
    ("mean_uncertainty", "uncertainty σ, mean, meV/Å", 1000.0, 1),
)


def before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    """What fine-tuning did, by the held-out frames; they chose its epoch, too."""
    table = Table("on the held-out frames", "before", "after", title="fine-tuning")
    for key, words, factor, digits in _ROWS:
        if key in before and key in after:
            said = (f"{of[key] * factor:.{digits}f}" for of in (before, after))
            table.add_row(words, *said)
    return table


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that are defined."""
    return {k: v for k, v in metrics.items() if np.isfinite(v)}
