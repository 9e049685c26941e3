"""One rule for each ATen operator: how its result's entries follow from those of its arguments.

The rules are grouped by file; ``table`` holds them all by the operator's name. A rule takes the layer in the making and
the operator's arguments by the names of its schema: tensors as ``Value``, numbers as expressions.
"""

from __future__ import annotations

from codegen.capture.operators import (
    activations,
    attention,
    convolutions,
    creation,
    norms,
    pointwise,
    pooling,
    products,
    rearranging,
    recurrent,
    reductions,
    selection,
    shapes,
)
from codegen.capture.operators.table import RULES, covered

__all__ = ["RULES", "covered"]

_FILES = (
    activations,
    attention,
    convolutions,
    creation,
    norms,
    pointwise,
    pooling,
    products,
    rearranging,
    recurrent,
    reductions,
    selection,
    shapes,
)
