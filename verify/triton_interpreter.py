"""Triton's interpreter, which runs its kernels on NumPy where ``TRITON_INTERPRET=1`` was set before its import.

The interpreter of Triton up to 3.6 takes an integer from an array of one entry by ``int``, which NumPy 2.5 refuses; the
later ones drop its axes first, and here so do they.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

_RIGHT_SINCE = (3, 7)


def mend() -> None:
    """Let the interpreter that is installed run on any NumPy; call it before the first kernel is launched."""
    if tuple(map(int, version("triton").split(".")[:2])) >= _RIGHT_SINCE:
        return
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    original = interpreter._patch_lang_tensor
    if getattr(original, "mended", False):
        return

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    patch.mended = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = patch
