"""Figure 2: how much data."""

from __future__ import annotations

from eip import plots
from eip.evaluation import compute_metrics
from eip.paper.frames import draw_sets, predicted, present
from eip.paper.job import Job, Made, Row

_EFFICIENCY = (
    ("mean σ (meV/Å)", "mean_uncertainty", 1000.0),
    ("force MAE (meV/Å)", "force_mae", 1000.0),
    ("Spearman (structures)", "spearman_structure", 1.0),
    ("ROC-AUC (structures)", "roc_auc_structure", 1.0),
)


def data_efficiency(job: Job) -> Made:
    assert job.setup.sets is not None
    clouds, curves = {}, {}
    measures: dict[str, dict[str, float]] = {}
    for fraction in job.setup.extra["fractions"]:
        name = f"{100 * fraction:g} %"
        folder = job.folder / f"{100 * fraction:g}percent"
        sets = draw_sets(job.setup.sets, job.data, folder / "data", fraction, job.log)
        # With a hundredth of the frames, a tenth of the steps.
        epochs = round(job.values()["training"]["epochs"] / fraction**0.5)
        model = job.trained(job.config(sets, folder / "model", epochs=epochs))
        known, other = (predicted(model, sets[s]) for s in ("test", "ood"))
        measures[name] = compute_metrics(known, other)
        clouds[name] = {
            label: (present(found.structure_uncertainty), found.structure_error)
            for label, found in (("ID", known), ("OOD", other))
        }
    for title, key, by in _EFFICIENCY:
        curves[title] = {
            "ID": [of[key] * by for of in measures.values()],
            "OOD": [of[f"{key}_ood"] * by for of in measures.values()],
        }

    def over(key: str, digits: int, by: float = 1.0) -> str:
        return " → ".join(f"{of[key] * by:.{digits}f}" for of in measures.values())

    shares = " → ".join(measures)
    rows = [
        Row(f"Spearman, structures, ID, {shares}", "0.74 to 0.86", over("spearman_structure", 2)),
        Row("the same, OOD", "“favourable”", over("spearman_structure_ood", 2)),
        Row("ROC-AUC, structures, ID", "0.86 to 0.93", over("roc_auc_structure", 2)),
        Row("the same, OOD", "“favourable”", over("roc_auc_structure_ood", 2)),
        Row("force MAE, ID, meV/Å", "falls", over("force_mae", 0, 1000.0)),
        Row("force MAE, OOD, meV/Å", "falls", over("force_mae_ood", 0, 1000.0)),
        Row("mean σ, ID, meV/Å", "falls", over("mean_uncertainty", 0, 1000.0)),
        Row("mean σ, OOD, meV/Å", "falls", over("mean_uncertainty_ood", 0, 1000.0)),
    ]
    return rows, job.drawn(plots.data_efficiency(clouds, curves)), measures
