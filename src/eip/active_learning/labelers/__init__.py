"""Labelers: what turns a structure into a label, and what is believed of what comes back.

A labeler is a description of a reference method. It is pickled and sent to a worker; whatever is
heavy (a model, a calculator, a process) is made there, in `Labeler.label`. What cannot be
calculated, or did not converge, raises `LabelFailure` and is never a label.

Each has a module, and a name in `eip.active_learning.names`, to which packages of yours may add.
"""

from eip.active_learning.labelers.base import Labeler, LabelFailure, bare_copy, labelled_copy
from eip.active_learning.labelers.limits import LabelLimits, check_label
from eip.active_learning.labelers.making import make_labeler

__all__ = [
    "LabelFailure",
    "LabelLimits",
    "Labeler",
    "bare_copy",
    "check_label",
    "labelled_copy",
    "make_labeler",
]
