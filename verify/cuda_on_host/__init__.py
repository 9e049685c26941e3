"""Run the generated CUDA kernels on the CPU: the same sources, compiled by g++ with ``shim.h`` in place of CUDA.

    Host       a generated package whose CUDA kernels run here, behind its public functions
    HostCode   the kernels of one source, with the same ``launch`` method as device code
    missing    why that is impossible on this machine

Every thread of a block is a fiber; barriers and shuffles wait. A race between threads shows as a result that depends on
the order in which threads run. Not emulated: timing, tensor cores, memory spaces.
"""

from verify.cuda_on_host.code import HostCode, HostError, missing
from verify.cuda_on_host.package import Host

__all__ = ["Host", "HostCode", "HostError", "missing"]
