"""What takes time, as operators of PyTorch, by compiled kernels where these can be had.

`operators` is the door: every operator has a kernel for the CPU, the same in plain PyTorch for any
other device and as what the kernel is checked against, and its derivatives. How another one is
added: CONTRIBUTING.md.
"""

from eip.kernels.build import KernelWarning, Library, kernels_for, library
from eip.kernels.choice import reference_path, triton_path, variant

__all__ = [
    "KernelWarning",
    "Library",
    "kernels_for",
    "library",
    "reference_path",
    "triton_path",
    "variant",
]
