"""The maps by Triton's kernels, a file a map."""
