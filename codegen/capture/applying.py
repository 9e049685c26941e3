"""Apply an operator's rule to the arguments of a call, and check the result's shape against torch's."""

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
    """Return the result of a call; raise CaptureError if the rule does not support its arguments."""
    try:
        found = RULES[call.operator](form, **arguments)
    except CaptureError:
        raise
    except _SURPRISES as problem:
        raise refuse(
            f"{call.operator} is called with arguments that its rule does not support "
            f"({type(problem).__name__}: {problem})",
            "call it with fewer options",
        ) from problem
    if isinstance(found, Value) and not _has_shape(found, call.shape):
        raise refuse(
            f"{call.operator} returns the shape ({', '.join(map(str, call.shape))}) in torch, but by its rule "
            f"({', '.join(map(str, found.shape))})",
            "call it with fewer options, and please report this as a bug",
        )
    return found


def _has_shape(value: Value, shape: Any) -> bool:
    """Return whether a tensor has torch's shape; for a list of tensors, ``shape`` is a list of shapes."""
    if shape is None or (shape and isinstance(shape[0], tuple)):
        return True
    return len(value.shape) == len(shape) and all(same(a, b) for a, b in zip(value.shape, shape, strict=True))


def unknown(call: Call) -> CaptureError:
    """Return the refusal of an operator without a rule."""
    short = call.operator.removeprefix("aten.")
    near = suggestion(short, [n.removeprefix("aten.") for n in RULES])
    return refuse(
        f"the operator {call.operator} has no rule",
        f"{near}write it in terms of covered operators (`affdiv layers --operators` lists them)",
        call.source,
    )
