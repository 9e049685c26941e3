"""The mark of tests that run the CUDA kernels on the CPU."""

import pytest

from verify.cuda_on_host import missing

needs_compiler = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a compiler")
