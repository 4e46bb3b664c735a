"""How good a potential is, how far its uncertainty can be trusted, and both as files."""

from eip.evaluation.metrics import METRIC_KEYS, compute_metrics, element_table, grade_table
from eip.evaluation.predictions import Evaluation, calibrate, evaluate
from eip.evaluation.report import write_metrics, write_predictions, write_report

__all__ = [
    "METRIC_KEYS",
    "Evaluation",
    "calibrate",
    "compute_metrics",
    "element_table",
    "evaluate",
    "grade_table",
    "write_metrics",
    "write_predictions",
    "write_report",
]
