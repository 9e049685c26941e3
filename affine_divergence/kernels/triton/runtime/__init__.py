"""What the files of Triton kernels share.

These files are copied unchanged into the folder ``kernels/triton/runtime`` of a generated package; only it imports
them.
"""
