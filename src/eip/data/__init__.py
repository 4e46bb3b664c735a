"""Reference data: files → frames in eV and Å → a store on disk → batches of graphs.

Names are imported on first use, so that settings are read before torch is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eip._lazy import importer

if TYPE_CHECKING:
    from eip.data.dataset import Batch as Batch
    from eip.data.dataset import GraphDataset as GraphDataset
    from eip.data.dataset import check_elements as check_elements
    from eip.data.dataset import collate as collate
    from eip.data.dataset import make_loader as make_loader
    from eip.data.frame import Frame as Frame
    from eip.data.frame import LabelWarning as LabelWarning
    from eip.data.labels import Labels as Labels
    from eip.data.readers import read_frames as read_frames
    from eip.data.sampler import FrameBatchSampler as FrameBatchSampler
    from eip.data.splits import LeakageWarning as LeakageWarning
    from eip.data.splits import split_indices as split_indices
    from eip.data.splits import subset as subset
    from eip.data.statistics import DataSummary as DataSummary
    from eip.data.statistics import energy_scale as energy_scale
    from eip.data.statistics import fit_element_energies as fit_element_energies
    from eip.data.statistics import fit_energy_shifts as fit_energy_shifts
    from eip.data.statistics import force_rms as force_rms
    from eip.data.statistics import force_scale as force_scale
    from eip.data.statistics import open_energies_of as open_energies_of
    from eip.data.statistics import summarize as summarize
    from eip.data.store import FrameStore as FrameStore
    from eip.data.store import open_frames as open_frames
    from eip.data.store import write_store as write_store
    from eip.data.structures import read_structures as read_structures

__getattr__, __all__ = importer(
    __name__,
    {
        "eip.data.dataset": "Batch GraphDataset check_elements collate make_loader",
        "eip.data.frame": "Frame LabelWarning",
        "eip.data.labels": "Labels",
        "eip.data.readers": "read_frames",
        "eip.data.sampler": "FrameBatchSampler",
        "eip.data.splits": "LeakageWarning split_indices subset",
        "eip.data.statistics": (
            "DataSummary energy_scale fit_element_energies fit_energy_shifts force_rms force_scale "
            "open_energies_of "
            "summarize"
        ),
        "eip.data.store": "FrameStore open_frames write_store",
        "eip.data.structures": "read_structures",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
