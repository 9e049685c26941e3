"""What the files of kernels in C++ share.

A package that is generated holds these files as they are, in its folder ``kernels/cpp/runtime``; nothing else imports
them.
"""
