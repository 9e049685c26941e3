"""Triton's interpreter, which runs its kernels on NumPy where ``TRITON_INTERPRET=1`` was set before its import.

The interpreter of Triton up to 3.6 takes an integer from an array of one entry by ``int``, which NumPy 2.5 refuses; the
later ones drop its axes first, and here so do they. Every one looks through all members of Triton's modules again for
each call of a function of a kernel, which is a fifth of its time; here it remembers which it looks for.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from importlib.metadata import version
from typing import Any

_RIGHT_SINCE = (3, 7)


def mend() -> None:
    """Let the interpreter, if one is installed, run on any NumPy, and sooner; call it before a kernel is launched."""
    if importlib.util.find_spec("triton") is None:
        return
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    if getattr(interpreter, "mended", False):
        return
    interpreter.mended = True
    _remember_builtins(interpreter)
    if tuple(map(int, version("triton").split(".")[:2])) < _RIGHT_SINCE:
        _drop_axes_of_integers(interpreter)


def _remember_builtins(interpreter: Any) -> None:
    is_builtin = importlib.import_module("triton.language.core").is_builtin
    names: dict[Any, list[str]] = {}

    def patch(package: Any, builder: Any, scope: Any) -> None:
        if package not in names:
            names[package] = [name for name, member in inspect.getmembers(package) if is_builtin(member)]
        for name in names[package]:
            member = getattr(package, name)
            if is_builtin(member):  # it is not where it is replaced already
                interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patch


def _drop_axes_of_integers(interpreter: Any) -> None:
    original = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patch
