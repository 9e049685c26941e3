"""Apply the rule of an operator to the tensors of a call, and check the result against the shape from torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codegen.capture.errors import CaptureError, refuse
from codegen.capture.forming import Forming
from codegen.capture.operators import RULES
from codegen.capture.uniting import Call
from codegen.capture.values import Value, same
from derive.excerpt import suggestion

_SURPRISES = (TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError, NotImplementedError)


def applied(call: Call, arguments: Mapping[str, Any], form: Forming) -> Any:
    """Return what a call gives; raise CaptureError where its rule does not know such arguments."""
    try:
        found = RULES[call.operator](form, **arguments)
    except CaptureError:
        raise
    except _SURPRISES as problem:
        raise refuse(
            f"{call.operator} is used with arguments that have no rule ({type(problem).__name__}: {problem})",
            "use its plain form",
        ) from problem
    if isinstance(found, Value) and not _has_shape(found, call.shape):
        raise refuse(
            f"{call.operator} gives the shape ({', '.join(map(str, call.shape))}) here, its rule "
            f"({', '.join(map(str, found.shape))})",
            "use its plain form; this is a defect worth reporting",
        )
    return found


def _has_shape(value: Value, shape: Any) -> bool:
    """Return whether a tensor has the shape that torch told; a list of tensors was told several."""
    if shape is None or (shape and isinstance(shape[0], tuple)):
        return True
    return len(value.shape) == len(shape) and all(same(a, b) for a, b in zip(value.shape, shape, strict=True))


def unknown(call: Call) -> CaptureError:
    """Return the refusal of an operator without a rule."""
    short = call.operator.removeprefix("aten.")
    near = suggestion(short, [n.removeprefix("aten.") for n in RULES])
    return refuse(
        f"the operator {call.operator} has no rule here",
        f"{near}write it in terms of covered operators (`affdiv layers --operators` lists them)",
        call.source,
    )
