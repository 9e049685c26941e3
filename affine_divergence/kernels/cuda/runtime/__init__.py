"""What the files of kernels in CUDA share.

A package that is generated holds these files as they are, in its folder ``kernels/cuda/runtime``; nothing else imports
them.
"""
