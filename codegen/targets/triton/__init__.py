"""Triton: fused kernels for NVIDIA GPUs, imported only if they are used; see ``README.md``."""
