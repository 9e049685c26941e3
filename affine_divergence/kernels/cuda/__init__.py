"""The maps by kernels in CUDA C++, a file a map."""
