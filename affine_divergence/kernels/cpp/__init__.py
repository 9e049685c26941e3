"""The maps by kernels in C++, a file a map."""
