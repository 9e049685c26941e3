"""CUDA C++ for NVIDIA devices: row kernels around matrix products, compiled at first use by NVRTC."""
