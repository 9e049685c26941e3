"""CUDA C++ for NVIDIA devices: row kernels around products of matrices, compiled at first use by NVRTC."""
