"""`eip.kernels.geometry` by Triton's kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eip.kernels.operators import contiguous
from eip.kernels.triton.edges import in_order_of, starts
from eip.kernels.triton.indexing import sums
from eip.kernels.triton.launch import launch_atoms, launch_flat
from eip.kernels.triton.sources import geometry as sources


def vectors(positions: Tensor, cell: Tensor, *graph: Any) -> Tensor:
    """See `eip.kernels.geometry.edge_vectors`."""
    *indices, shifts, dtype = graph
    out = positions.new_empty(len(shifts), 3, dtype=dtype)
    arrays = contiguous((positions.double(), cell.double(), *indices, shifts.float()))
    launch_flat(sources.vectors(), len(out), *arrays, out, len(out))
    return out


def transposed(
    g: Tensor,
    frame: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    shifts: Tensor,
    frames: int,
    with_cell: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `eip.kernels.geometry.edge_vectors_backward`."""
    atoms = len(frame)
    arrays = [g.contiguous(), starts(centers, atoms), *in_order_of(neighbors, atoms)]
    g_x = g.new_empty(atoms, 3, dtype=torch.float64)
    if not with_cell:
        launch_atoms(sources.transposed(False), atoms, *arrays, g_x, atoms)
        return g_x, None
    of_atoms = g.new_empty(atoms, 9, dtype=torch.float64)
    arrays.append(shifts.float().contiguous())
    launch_atoms(sources.transposed(True), atoms, *arrays, g_x, of_atoms, atoms)
    return g_x, sums(of_atoms, frame, frames).reshape(frames, 3, 3)
