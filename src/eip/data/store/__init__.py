"""Frames on disk as memory-mapped columns: any size, any order, exact to the last bit.

A store is a directory of ``.npy`` columns, by atom (numbers, positions, forces) and by frame (the
rest), and ``store.json`` with its version, its sources, the columns' sizes and checksums, and a
checksum of itself. It is written beside its final name and renamed when it is whole, so what has
the name is complete. ``store.json`` is compared with its checksum whenever it is read, the columns
with theirs when `open_frames` first opens them; which files were found whole is kept beside them.
"""

from eip.data.store.cache import cache_names, fingerprints, open_frames, states
from eip.data.store.layout import is_store
from eip.data.store.reader import FrameStore
from eip.data.store.writer import StoreWriter, write_store

__all__ = [
    "FrameStore",
    "StoreWriter",
    "cache_names",
    "fingerprints",
    "is_store",
    "open_frames",
    "states",
    "write_store",
]
