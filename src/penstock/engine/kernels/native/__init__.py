"""Kernels in C for processors with AVX-512, its integer and its bf16 products.

They exist because what surrounds the products is what costs: norms, quantization,
rotation and activation are done where the numbers are in the cache anyway, and
attention reads pages where they lie. `penstock.engine.kernels.plain` says the
same in PyTorch's own operations; the tests compare the two.
"""
