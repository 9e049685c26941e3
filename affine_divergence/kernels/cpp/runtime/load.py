"""Load compiled code as callable kernels: as a Python module if it is one, else by ctypes."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

_MODULE = "kernels"


def loaded(binary: bytes, folder: Path) -> Any:
    """Return an object whose attributes are the kernels; the folder holds the code only while it is loaded.

    A kernel takes integers as lengths and addresses, floats as settings, and last the number of threads: few arguments,
    since each costs time. Raises OSError or ImportError for any other code.
    """
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".so") as file:  # load exactly the bytes that were checked
        file.write(binary)
        file.flush()
        code = ctypes.CDLL(file.name)
        return _imported(file.name) if hasattr(code, f"PyInit_{_MODULE}") else Called(code)


def _imported(path: str) -> Any:
    loader = ExtensionFileLoader(_MODULE, path)
    spec = spec_from_file_location(_MODULE, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


class Called:
    """Kernels by their names, called by ctypes."""

    def __init__(self, code: ctypes.CDLL) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Callable[..., int]:
        """Return a kernel that determines the types of its arguments at its first call.

        Its return value is meaningful only for kernels with a result; most have none.
        """
        function = getattr(self._code, name)

        def first(*values: float) -> int:
            kinds = [ctypes.c_double if isinstance(v, float) else ctypes.c_longlong for v in values[:-1]]
            function.argtypes, function.restype = [*kinds, ctypes.c_int], ctypes.c_int
            setattr(self, name, function)
            answer: int = function(*values)
            return answer

        return first
