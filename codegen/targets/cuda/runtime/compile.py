"""Compile a file of CUDA C++ to kernels at first use: NVRTC through ``cuda.core``.

Needs ``cuda.core`` (``pip install cuda-core[cu13]``, or ``[cu12]`` for a torch built for CUDA 12), but no compiler.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ....runtime.kernel_cache import KernelError, cached

ELEMENTS = {torch.float32: "float", torch.float64: "double", torch.float16: "Half", torch.bfloat16: "Bfloat"}
_DEFAULT_STREAM = 1  # CUDA's explicit name for the stream that torch calls 0
_INSTALL = "`pip install cuda-core[cu13]` (cu12 for a torch built for CUDA 12)"


class Code:
    """The compiled kernels of one source for one element type, on one device."""

    def __init__(self, binary: bytes, device: torch.device) -> None:
        self._device = device
        self._core = core()
        self._object = self._core.ObjectCode.from_cubin(binary)
        self._kernels: dict[str, Any] = {}

    def launch(self, name: str, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Any]) -> None:
        """Launch a kernel on the device's current stream; integers among the arguments are addresses."""
        with torch.cuda.device(self._device):
            self._core.Device(self._device.index).set_current()
            if name not in self._kernels:
                self._kernels[name] = self._object.get_kernel(name)
            handle = torch.cuda.current_stream(self._device).cuda_stream
            stream = self._core.Stream.from_handle(handle or _DEFAULT_STREAM)
            self._core.launch(stream, self._core.LaunchConfig(grid=grid, block=block), self._kernels[name], *arguments)


@functools.cache
def core() -> Any:
    """Return the module ``cuda.core``; raise ``KernelError`` if it is not installed."""
    try:
        return importlib.import_module("cuda.core")
    except ImportError as problem:
        raise KernelError(
            f"the CUDA kernels are compiled by cuda.core, which cannot be imported ({problem}); install it with "
            f"{_INSTALL}, or use the functions of `functional`"
        ) from None


def compiled(source: Path, dtype: torch.dtype, device: torch.device) -> Code:
    """Return the kernels of a source for an element type and a device, from the cache on disk if they are there.

    Raises ``KernelError`` for a type without kernels, a device that is not a CUDA device, or if cuda.core is missing.
    """
    if dtype not in ELEMENTS:
        raise KernelError(f"the CUDA kernels are for {', '.join(map(str, ELEMENTS))}, not {dtype}; convert with .to()")
    if device.type != "cuda":
        raise KernelError(f"the CUDA kernels need tensors on a CUDA device, not on {device}; use those of `functional`")
    major, minor = torch.cuda.get_device_capability(device)
    return Code(binary(source, ELEMENTS[dtype], f"sm_{major}{minor}"), device)


@functools.cache
def binary(source: Path, element: str, architecture: str) -> bytes:
    """Return the machine code of a source with its headers; ``architecture`` is for example ``sm_90``."""
    text, *headers = _with_headers(source)
    parts = (text, *headers, element, architecture, _nvrtc_version())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cached(key, lambda: _compile(source, text, element, architecture))


def _with_headers(source: Path) -> list[str]:
    """Return the texts of a source and of all headers that it includes, directly or through others."""
    texts = [source.read_text(encoding="utf-8")]
    for name in re.findall(r'^#include "(.+)"', texts[0], flags=re.MULTILINE):
        texts += _with_headers(source.parent / name)
    return texts


def _nvrtc_version() -> str:
    """Return the version of NVRTC; raise ``KernelError`` if its library is missing."""
    core()
    try:
        return str(importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion())
    except Exception as problem:  # cuda.core without the library raises its own errors
        raise KernelError(f"the library NVRTC cannot be loaded ({problem}); install it with {_INSTALL}") from problem


def _compile(source: Path, text: str, element: str, architecture: str) -> bytes:
    """Compile with NVRTC; raise ``KernelError`` with its log if that fails."""
    options = core().ProgramOptions(
        name=source.name,
        arch=architecture,
        std="c++17",
        define_macro=("ELEMENT", element),
        include_path=[str(folder) for folder in (source.parent, Path(__file__).parent)],
    )
    try:
        return bytes(core().Program(text, "c++", options).compile("cubin").code)
    except Exception as problem:  # the class depends on cuda.core's version; the text has NVRTC's log
        raise KernelError(
            f"NVRTC could not compile {source.name} for {element} on {architecture}: {problem}"
        ) from problem
