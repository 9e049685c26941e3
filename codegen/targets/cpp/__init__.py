"""C++ kernels for the CPU: loops over rows around torch's matrix products."""
