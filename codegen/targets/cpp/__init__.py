"""Kernels in C++ for the CPU: loops over rows between the products of matrices, which stay torch's."""
