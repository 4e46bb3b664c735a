"""Neighbor lists that follow a batch of structures."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eip.graph import AtomGraph, batch_graphs
from eip.neighbors import graph_from_tensors


class VerletLists:
    """`eip.neighbors.VerletList` for a batch: the list of a structure is built anew when that one
    must be, and the others stay.

    Args:
        cutoff: Å.
        skin: Å beyond it; 0: the lists are built for each call.

    Raises:
        ValueError: if the skin is negative.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if skin < 0:
            raise ValueError(f"skin must be at least 0 Å, got {skin}")
        self.cutoff, self.skin = cutoff, skin
        #: Lists of single structures built so far.
        self.rebuilds = 0
        self._of: tuple[Tensor, ...] = ()
        self._graphs: list[AtomGraph] = []
        self._joined: AtomGraph | None = None

    def __call__(
        self,
        numbers: Int[Tensor, "atoms"],
        positions: Float[Tensor, "atoms 3"],
        cell: Float[Tensor, "frames 3 3"],
        pbc: Bool[Tensor, "frames 3"],
        frame: Int[Tensor, "atoms"],
    ) -> AtomGraph:
        """The graph of the structures as they are now; arguments as of
        `eip.neighbors.graph_from_tensors`, which says what it raises."""
        now = numbers.long(), positions.detach().double(), cell.double(), pbc, frame.long()
        if self._is_of(now):
            now = now[0], self._nearest(now[1], now[2]), *now[2:]
        else:
            self._of = ()
        outdated = self._outdated(now)
        if len(outdated):
            self._rebuild(now, outdated.tolist())
        assert self._joined is not None
        return self._joined.with_positions(now[1])

    def _outdated(self, now: tuple[Tensor, ...]) -> Int[Tensor, "outdated"]:
        """The structures whose lists do not hold all pairs any more."""
        _, positions, cell, _, frame = now
        if not self._of:
            return torch.arange(len(cell))
        _, built_at, built_in, _, _ = self._of
        moved = (positions - built_at).square().sum(dim=1)
        # "not <": true of NaN, which the search will then report.
        away = ~(4 * moved < self.skin**2)
        left = torch.zeros(len(cell), device=frame.device).index_add(0, frame, away.float()) > 0
        left = left | (cell != built_in).flatten(1).any(dim=1)
        return left.nonzero()[:, 0].cpu()

    def _is_of(self, now: tuple[Tensor, ...]) -> bool:
        """Whether the lists are of structures with the same atoms and periodic directions."""
        return bool(self._of) and all(
            now[k].shape == self._of[k].shape and torch.equal(now[k], self._of[k])
            for k in (0, 3, 4)
        )

    def _nearest(
        self, positions: Float[Tensor, "atoms 3"], now_in: Float[Tensor, "frames 3 3"]
    ) -> Float[Tensor, "atoms 3"]:
        """The images of atoms that are nearest to where the lists were built: an engine that keeps
        atoms in their cells moves one by a lattice vector now and then, which changes nothing."""
        _, built_at, cell, pbc, frame = self._of
        same = (cell == now_in).flatten(1).all(dim=1)
        whole = torch.where(pbc[:, :, None] & same[:, None, None], cell, 0.0)
        inverse = torch.linalg.pinv(whole).index_select(0, frame)
        away = torch.einsum("na,nab->nb", positions - built_at, inverse).round()
        return positions - torch.einsum("na,nab->nb", away, whole.index_select(0, frame))

    def _rebuild(self, now: tuple[Tensor, ...], outdated: list[int]) -> None:
        numbers, positions, cell, pbc, frame = now
        whole = len(outdated) == len(cell)
        if whole:
            self._graphs, self._of = [], ()
        else:
            before = self._of
        bounds = [0, *torch.bincount(frame, minlength=len(cell)).cumsum(0).tolist()]
        for index in outdated:
            part = slice(bounds[index], bounds[index + 1])
            try:
                graph = graph_from_tensors(
                    *(numbers[part], positions[part], cell[index, None], pbc[index, None]),
                    self.cutoff + self.skin,
                    frame=torch.zeros_like(frame[part]),
                )
            except ValueError as error:
                self._of = ()
                raise type(error)(str(error).replace("structure 0", f"structure {index}")) from None
            if whole:
                self._graphs.append(graph)
            else:
                self._graphs[index] = graph
                before[1][part], before[2][index] = positions[part], cell[index]
        self.rebuilds += len(outdated)
        if whole:
            self._of = tuple(part.clone() for part in now)
        self._joined = batch_graphs(self._graphs)
