"""The generated CUDA kernels on the CPU: the same sources, compiled by g++ with ``shim.h`` in the place of CUDA.

    Host       a generated package whose CUDA kernels run here, behind its public functions
    HostCode   the kernels of one source, with the ``launch`` of code on a device
    missing    why that is not possible on this machine

Every thread of a block is a fiber, with barriers and shuffles that wait, so races between threads show as results that
depend on the order in which they run. Not done here: no timing, no tensor cores, no memory spaces.
"""

from verify.cuda_on_host.code import HostCode, HostError, missing
from verify.cuda_on_host.package import Host

__all__ = ["Host", "HostCode", "HostError", "missing"]
