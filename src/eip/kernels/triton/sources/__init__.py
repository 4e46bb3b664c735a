"""Triton's source of the kernels, put together of the formulas; see `eip.kernels.triton`.

`edges` sums over each atom's neighbors, `atoms` works at one, `geometry` has what goes along an
edge's vector; `text` is what all are written with.
"""
