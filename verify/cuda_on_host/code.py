"""Compile one source of CUDA kernels into a library for the CPU, and launch its kernels."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from affine_divergence.runtime.kernel_cache import KernelError, cached

_SHIM = Path(__file__).with_name("shim.h")
_FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall")
_SILENT = ("unknown-pragmas", "unused-function", "maybe-uninitialized", "sign-compare", "dangling-pointer")
_SANITIZER = "-fsanitize=undefined"
_KIND = "host.so"


class HostError(RuntimeError):
    """A source that g++ rejects or warns about, or a kernel whose threads deadlock."""


def missing() -> str:
    """Return what this machine lacks to run the kernels, or an empty text if it lacks nothing."""
    if platform.machine() != "x86_64":
        return f"half precision needs x86-64, and this is {platform.machine()}"
    return "" if shutil.which("g++") else "g++ is not installed"


class HostCode:
    """The kernels of a source: ``launch`` runs every block on the CPU, with its threads in a chosen order.

    ``headers`` are the included files, by path relative to the source. ``element`` is the C++ element type, such as
    ``float``. ``order`` seeds the order of threads; 0 means by index. Every launch is appended to ``launched`` as
    (name, grid, block). ``watched`` compiles with a sanitizer that reports undefined behaviour on standard error.
    """

    def __init__(
        self,
        text: str,
        headers: Mapping[str, str],
        element: str,
        order: int = 0,
        launched: list[Any] | None = None,
        watched: bool = True,
    ) -> None:
        self._library = _library(text, tuple(sorted(headers.items())), element, watched)
        self._order = order
        self._launched: list[Any] = [] if launched is None else launched

    def launch(self, name: str, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Any]) -> None:
        """Run a kernel to completion; integer arguments are addresses. HostError if its threads deadlock."""
        self._launched.append((name, grid, block))
        held = [ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments]
        values = (ctypes.c_void_p * len(held))(*(ctypes.addressof(a) for a in held))
        shape = (ctypes.c_uint * 4)(*grid, *block)
        if getattr(self._library, f"host_{name}")(shape, self._order, values):
            raise HostError(f"{name}: deadlock: its threads wait for each other for ever")


@functools.cache
def _library(text: str, headers: tuple[tuple[str, str], ...], element: str, watched: bool) -> ctypes.CDLL:
    """Compile a source and load it; each kernel K is exported as host_K."""
    names = re.findall(r"__global__ void (\w+)\(", text)
    entries = "".join(
        f'\nextern "C" int host_{name}(const unsigned* shape, unsigned order, void** values) {{\n'
        f"    return launch({name}, shape, order, values);\n}}\n"
        for name in names
    )
    text += entries
    flags = [*_FLAGS, *(f"-Wno-{name}" for name in _SILENT), *([_SANITIZER] if watched else [])]
    command = ["g++", *flags, f"-DELEMENT={element}", "-include", str(_SHIM), "kernels.cpp", "-o", "kernels.so"]
    parts = (text, *(part for header in headers for part in header), _SHIM.read_text(encoding="utf-8"), _compiler())
    key = hashlib.sha256("\0".join((*command, *parts)).encode()).hexdigest()
    try:
        code = cached(key, lambda: _compiled(text, headers, command, element), _KIND)
    except KernelError:  # no folder for compiled kernels
        code = _compiled(text, headers, command, element)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        library.write_bytes(code)
        return ctypes.CDLL(str(library))


def _compiled(text: str, headers: tuple[tuple[str, str], ...], command: list[str], element: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        for name, header in headers:
            place = Path(folder) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(header, encoding="utf-8")
        (Path(folder) / "kernels.cpp").write_text(text, encoding="utf-8")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode or done.stderr:
            raise HostError(f"g++ rejects the kernels for {element}: {done.stderr}")
        return (Path(folder) / "kernels.so").read_bytes()


@functools.cache
def _compiler() -> str:
    """Return the compiler's version, which is part of the cache key of compiled kernels."""
    return subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
