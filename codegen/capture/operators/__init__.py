"""One rule for each ATen operator: the entries of its result in terms of the entries of its arguments.

The rules are grouped by file; ``table`` holds them all by the operator's name. A rule takes the layer under
construction and the operator's arguments, named as in its schema: tensors as ``Value``, numbers as expressions.
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
