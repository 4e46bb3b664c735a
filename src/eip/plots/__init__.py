"""Arrays to Axes. The only importer of matplotlib; imports nothing of eIP.

Figures are built on their own Agg canvas: no pyplot, no global backend, style or open-figure list
is touched, so a figure can be made in a library call, a thread or a notebook alike. Each drawing
function takes an Axes and plain arrays; NaNs are left out.

    figure = new_figure(1, 2)
    parity(figure.axes[0], true, predicted, quantity="force component", unit="eV/Å")
    save_figure(figure, "parity.png")
"""

from eip.plots.figures import (
    bond_scans,
    comparison,
    data_efficiency,
    dynamics,
    gantt,
    learning,
    order_parameters,
    periodic_table,
    sampling,
    structure,
    training_curves,
    universal,
)
from eip.plots.panels import (
    calibration_curves,
    parity,
    retention,
    roc_curves,
    uncertainty_against_error,
)
from eip.plots.style import COLORS, Figure, new_figure, save_figure

__all__ = [
    "COLORS",
    "Figure",
    "bond_scans",
    "calibration_curves",
    "comparison",
    "data_efficiency",
    "dynamics",
    "gantt",
    "learning",
    "new_figure",
    "order_parameters",
    "parity",
    "periodic_table",
    "retention",
    "roc_curves",
    "sampling",
    "save_figure",
    "structure",
    "training_curves",
    "uncertainty_against_error",
    "universal",
]
