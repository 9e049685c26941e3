"""What the files of kernels in Triton share.

A package that is generated holds these files as they are, in its folder ``kernels/triton/runtime``; nothing else
imports them.
"""
