"""Reference data: files → frames in eV and Å → a store on disk → batches of graphs."""

from eip.data.dataset import (
    Batch,
    FrameBatchSampler,
    GraphDataset,
    LeakageWarning,
    check_elements,
    collate,
    make_loader,
    split_indices,
    subset,
)
from eip.data.frame import Frame, LabelWarning
from eip.data.labels import Labels
from eip.data.readers import read_frames
from eip.data.statistics import (
    DataSummary,
    energy_scale,
    fit_element_energies,
    force_rms,
    force_scale,
    summarize,
)
from eip.data.store import FrameStore, open_frames, write_store
from eip.data.structures import read_structures

__all__ = [
    "Batch",
    "DataSummary",
    "Frame",
    "FrameBatchSampler",
    "FrameStore",
    "GraphDataset",
    "LabelWarning",
    "Labels",
    "LeakageWarning",
    "check_elements",
    "collate",
    "energy_scale",
    "fit_element_energies",
    "force_rms",
    "force_scale",
    "make_loader",
    "open_frames",
    "read_frames",
    "read_structures",
    "split_indices",
    "subset",
    "summarize",
    "write_store",
]
