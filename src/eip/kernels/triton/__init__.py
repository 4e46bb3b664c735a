"""The kernels of a GPU, in Triton, of the modules of `eip.kernels` of the same names.

Nothing here imports Triton before a kernel is wanted. `expressions` and `formulas` say what is
worked out, `sources` how a program goes through edges and atoms, `launch` starts them. There is no
GPU in the tests: they run the kernels by Triton's interpreter on arrays of the CPU, and compile
them for cards that are not there.
"""
