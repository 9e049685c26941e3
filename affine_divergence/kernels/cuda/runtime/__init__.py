"""What the files of CUDA kernels share.

These files are copied unchanged into the folder ``kernels/cuda/runtime`` of a generated package; only it imports them.
"""
