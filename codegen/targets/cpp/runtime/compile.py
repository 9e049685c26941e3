"""From a file of C++ to kernels that can be called: the compiler of the system, at first use.

Any of ``c++``, ``g++`` and ``clang++`` will do, or the one that the environment variable CXX names. Nothing of torch is
included or linked: a kernel gets addresses and lengths. Python's headers are used where they are; see ``python.h``.
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
NARROW = {torch.bfloat16: "Bfloat16"}  # types of 16 bits that kernels for rows have, with sums in float32
_LANGUAGE = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden")
_ARITHMETIC = ("-fno-math-errno", "-fno-trapping-math")  # nobody asks for either; results are the same
_NATIVE, _THREADS = ("-march=native", "-mprefer-vector-width=512"), ("-fopenmp",)
_MACHINES = (_NATIVE + _THREADS, _THREADS, _NATIVE, ())  # what a compiler may lack
PATIENCE = 120  # seconds


def missing() -> str:
    """Return what lacks for kernels to be compiled, and the mend; nothing if all is there."""
    if _compiler():
        return ""
    named = os.environ.get("CXX")
    found = f"CXX names {named!r}, which is no program" if named else "no C++ compiler is found"
    return f"{found}; install one (Debian: `apt install g++`), or name it in the environment variable CXX"


@functools.cache
def compiled(source: Path, dtype: torch.dtype) -> Any:
    """Return the kernels of a source for a type, as ``loaded`` does, from the cache on disk or new.

    Raise ``KernelError`` for another type, or if there is no compiler or it refuses.
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
    for place in (folder(), Path(tempfile.gettempdir())):  # a folder that was filled beforehand may be read-only
        try:
            return loaded(binary, place)
        except (OSError, ImportError) as problem:
            problems.append(problem)
    raise KernelError(f"the compiled kernels of {source.name} cannot be loaded: {problems[0]}")


def _compiler() -> list[str]:
    """Return the path of the compiler and the options that CXX gives it; nothing without one."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError:  # a quotation that does not end: no program has such a name
        named = [os.environ["CXX"]]
    for name, *options in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        path = shutil.which(name)
        if path:
            return [path, *options]
    return []


def _python() -> tuple[str, ...]:
    """Return the options by which kernels become a module of this Python; none where its headers are not installed."""
    folder = sysconfig.get_path("include")
    if sys.implementation.name != "cpython" or not Path(folder, "Python.h").is_file():
        return ()
    return "-DPYTHON", f"-DABI={sysconfig.get_config_var('SOABI')}", f"-I{folder}"


def _state(compiler: str) -> str:
    """Return what changes when another version of a compiler is installed in its place."""
    found = Path(compiler).resolve().stat()
    return f"{Path(compiler).resolve()} {found.st_size} {found.st_mtime_ns}"


@functools.cache
def _processor() -> str:
    """Return the instructions that this processor has: a cache folder may be shared by machines that differ."""
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
    """Hold a folder for what the compiler writes; ``KernelError`` where there is no room for one."""
    try:
        with tempfile.TemporaryDirectory() as place:
            yield place
    except OSError as problem:
        raise KernelError(f"there is no place to compile {source.name} in: {problem}") from None


def _compile(source: Path, command: list[str]) -> bytes:
    """Compile for this machine, with threads if the compiler has them; ``KernelError`` with its messages if not."""
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
