"""From a PyTorch module to a ``derive.Layer``: the inverse of the torch target.

    stage     input -> output                                          where
    call      factory -> module and examples, at several sizes         ``factory``, ``assignments``
    export    module and examples -> Program of ATen operators         ``exporting`` (``torch.export``, undecomposed)
    unite     Programs -> one program whose numbers are polynomials    ``uniting``, ``fitting``
    form      program -> definitions of a Layer                        ``forming``, ``operators`` (a rule for each)
    prove     Layer against module, by value and by slope              ``proof``

Not supported: control flow that depends on values, random operators, sizes of one, operators without a rule. The error
names the operator, the source line and the fix. The user's text is never evaluated: the named factory is imported and
called, nothing more. torch is imported when a capture runs, never before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from codegen.capture.driver import Captured, capture, captured
from derive.forward_map import Layer

__all__ = ["Captured", "capture", "captured"]


class _Room(ModuleType):
    """This package made callable: ``codegen.capture(factory)`` is ``codegen.capture.capture(factory)``."""

    def __call__(
        self, factory: Callable[..., Any] | str, *, example: str | None = None, name: str | None = None
    ) -> Layer:
        """Return the layer of a factory: see ``capture``."""
        return capture(factory, example=example, name=name)


sys.modules[__name__].__class__ = _Room
