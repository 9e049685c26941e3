"""Compile a file of C++ to callable kernels at first use, with the system's compiler.

It is the one that the environment variable CXX names, or ``c++``, ``g++`` or ``clang++``. Nothing of torch is included
or linked: a kernel gets addresses and lengths. Python's headers are used if they are installed; see ``python.h``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ....runtime.kernel_cache import KernelError, cached, folder
from .load import loaded

ELEMENTS = {torch.float32: "float", torch.float64: "double"}
NARROW = {torch.bfloat16: "Bfloat16"}  # 16-bit types of the kernels of rows, with sums in float32
_LANGUAGE = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden")
_ARITHMETIC = ("-fno-math-errno", "-fno-trapping-math")  # neither is used; results are the same
_NATIVE, _THREADS = ("-march=native", "-mprefer-vector-width=512"), ("-fopenmp",)
_MACHINES = (_NATIVE + _THREADS, _THREADS, _NATIVE, ())  # tried in order: a compiler may lack some options
PATIENCE = 120  # seconds


def missing() -> str:
    """Return what is missing to compile kernels, and the fix; "" if nothing is missing."""
    if _compiler():
        return ""
    named = os.environ.get("CXX")
    found = f"CXX names {named!r}, which is not a program" if named else "no C++ compiler is found"
    return f"{found}; install one (Debian: `apt install g++`), or name it in the environment variable CXX"


@functools.cache
def compiled(source: Path, dtype: torch.dtype) -> Any:
    """Return the kernels of a source for a type, as ``loaded`` does, from the cache on disk or new.

    Raises ``KernelError`` for another type, or if there is no compiler or it fails.
    """
    element = (ELEMENTS | NARROW).get(dtype)
    if element is None:
        raise KernelError(f"the C++ kernels are for {', '.join(map(str, ELEMENTS))}, not {dtype}; convert with .to()")
    if missing():
        raise KernelError(f"the kernels of {source.name} cannot be compiled: {missing()}")
    texts = _with_headers(source)
    command = [*_compiler(), *_LANGUAGE, *_ARITHMETIC, f"-DELEMENT={element}"]
    parts = ("\0".join(texts), " ".join((*command, *_python())), _state(command[0]), _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    binary = cached(key, lambda: _compile(source, command), "so")
    problems: list[Exception] = []
    for place in (folder(), Path(tempfile.gettempdir())):  # a prefilled cache folder may be read-only
        try:
            return loaded(binary, place)
        except (OSError, ImportError) as problem:
            problems.append(problem)
    raise KernelError(f"the compiled kernels of {source.name} cannot be loaded: {problems[0]}")


def _compiler() -> list[str]:
    """Return the path of the compiler and its options from CXX; empty without a compiler."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError:  # an unclosed quotation: no program has such a name
        named = [os.environ["CXX"]]
    for name, *options in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        path = shutil.which(name)
        if path:
            return [path, *options]
    return []


def _python() -> tuple[str, ...]:
    """Return the options that make kernels a module of this Python; empty if its headers are not installed."""
    folder = sysconfig.get_path("include")
    if sys.implementation.name != "cpython" or not Path(folder, "Python.h").is_file():
        return ()
    return "-DPYTHON", f"-DABI={sysconfig.get_config_var('SOABI')}", f"-I{folder}"


def _state(compiler: str) -> str:
    """Return a text that changes when another version of the compiler is installed."""
    found = Path(compiler).resolve().stat()
    return f"{Path(compiler).resolve()} {found.st_size} {found.st_mtime_ns}"


@functools.cache
def _processor() -> str:
    """Return this processor's model and instruction sets: different machines may share a cache folder."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = dict.fromkeys(line for line in text.splitlines() if re.match(r"(model name|flags|Features|CPU)\b", line))
    return "\n".join([platform.machine(), *lines])


def _with_headers(source: Path) -> list[str]:
    """Return the text of a source and those of the headers below it that it includes."""
    text = source.read_text(encoding="utf-8")
    names = re.findall(r'^#include "(.+)"', text, flags=re.MULTILINE)
    return [text, *((source.parent / name).read_text(encoding="utf-8") for name in names)]


@contextlib.contextmanager
def _temporary(source: Path) -> Iterator[str]:
    """Yield a folder for the compiler's output; raise ``KernelError`` if it cannot be made."""
    try:
        with tempfile.TemporaryDirectory() as place:
            yield place
    except OSError as problem:
        raise KernelError(f"there is no temporary folder to compile {source.name} in: {problem}") from None


def _compile(source: Path, command: list[str]) -> bytes:
    """Compile for this machine, with OpenMP if available; raise ``KernelError`` with the compiler's messages."""
    messages = ""
    with _temporary(source) as place:
        result = Path(place, "kernels.so")
        for options in [(*machine, *more) for machine in _MACHINES for more in dict.fromkeys((_python(), ()))]:
            try:
                done = subprocess.run(
                    [*command, *options, str(source), "-o", str(result)],
                    capture_output=True,
                    check=False,
                    text=True,
                    timeout=PATIENCE,
                    env={**os.environ, "LC_ALL": "C"},
                )
            except (OSError, subprocess.TimeoutExpired) as problem:
                raise KernelError(f"{command[0]} could not compile {source.name}: {problem}") from None
            if done.returncode == 0 and result.is_file():
                return result.read_bytes()
            messages = messages or done.stderr
    raise KernelError(f"{command[0]} could not compile {source.name}: {messages.strip() or 'it wrote no code'}")
