"""The emitted kernels on the CPU: the same sources, compiled by g++ with ``host_shim.h`` in the place of CUDA."""

import ctypes
import functools
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall"]
FLAGS += [
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-Wno-maybe-uninitialized",
    "-Wno-sign-compare",
    "-Wno-dangling-pointer",
]
SANITIZER = "-fsanitize=undefined"

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86-64, for half precision"
)


@functools.cache
def library(text, header, element, watched=True):
    """Compile a source and return the loaded library; every kernel K has an entry host_K."""
    names = re.findall(r"__global__ void (\w+)\(", text)
    entries = "".join(
        f'\nextern "C" int host_{n}(const unsigned* shape, unsigned order, void** values) {{\n'
        f"    return launch({n}, shape, order, values);\n}}\n"
        for n in names
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "_cuda_rows.cuh").write_text(header)
        (place / "kernels.cpp").write_text(text + entries)
        command = ["g++", *FLAGS, *[SANITIZER] * watched, f"-DELEMENT={element}", "-include", str(HERE / "host_shim.h")]
        done = subprocess.run([*command, "kernels.cpp", "-o", "kernels.so"], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return ctypes.CDLL(str(place / "kernels.so"))


class HostCode:
    """Stands in for the compiled code on a device: the same ``launch``, on the CPU, threads in a chosen order."""

    def __init__(self, text, header, element, order=0, launched=None, watched=True):
        self._library = library(text, header, element, watched)
        self._order = order
        self._launched = [] if launched is None else launched

    def launch(self, name, grid, block, arguments):
        self._launched.append((name, grid, block))
        held = [ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments]
        values = (ctypes.c_void_p * len(held))(*(ctypes.addressof(a) for a in held))
        shape = (ctypes.c_uint * 4)(*grid, *block)
        stuck = getattr(self._library, f"host_{name}")(shape, self._order, values)
        assert not stuck, f"{name}: threads wait for each other for ever"
