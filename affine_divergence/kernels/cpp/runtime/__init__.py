"""What the files of C++ kernels share.

These files are copied unchanged into the folder ``kernels/cpp/runtime`` of a generated package; only it imports them.
"""
