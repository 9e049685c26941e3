"""Triton: fused kernels for NVIDIA GPUs, loaded only when they are wanted; see ``README.md``."""
