"""Figure 3: five methods."""

from __future__ import annotations

from eip.paper.frames import draw_sets
from eip.paper.job import Job, Made, Row
from eip.verbs.compare import compare


def methods_compared(job: Job) -> Made:
    assert job.setup.sets is not None
    sets = draw_sets(job.setup.sets, job.data, job.folder / "data", log=job.log)
    methods = ("tensor", "ensemble", "dropout", "gmm", "mve")
    config = job.config(sets, job.folder / "methods")
    found = compare(config, methods, progress=job.progress, log=job.log)
    figures = found.figures

    def each(key: str, digits: int, by: float = 1.0) -> str:
        cells = []
        for method in methods:
            value = figures[method].get(key, {}).get("mean")
            cells.append(f"{method} {'–' if value is None else f'{value * by:.{digits}f}'}")
        return ", ".join(cells)

    rows = [
        Row("training over the plain potential's", "ensemble 4", each("training_cost", 1)),
        Row("prediction over the plain potential's", "dropout 4", each("prediction_cost", 1)),
        Row(
            "force MAE, meV/Å",
            "ensemble, gmm and eIP lowest, dropout and mve higher",
            each("force_mae", 1, 1000.0),
        ),
        Row("Spearman, atoms", "all strong", each("spearman_atom", 2)),
        Row("ROC-AUC, atoms", "eIP above the ensemble", each("roc_auc_atom", 2)),
    ]
    if "ood_ratio" in figures["tensor"]:
        rows.append(Row("growth of σ over growth of the error, OOD", "", each("ood_ratio", 2)))
    return rows, found.plot, {label: dict(of) for label, of in figures.items()}
