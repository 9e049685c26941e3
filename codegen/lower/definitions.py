"""A layer becomes a program: each definition, then the output, in order.

Refused for now, with a ``UsageError`` that says so: index arithmetic that is no convolution, integer tensors, tensors
without an axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from sympy import Expr, Indexed, Symbol

from codegen.ir.program import Program, ProgramError, Value
from codegen.lower.functions import printable
from codegen.lower.sums import Emitter
from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index
from derive.algebra.nodes import Binder, IndexedSum
from derive.algebra.normal import normalise
from derive.algebra.reductions import Reduction, Softmax
from derive.errors import UsageError
from derive.forward_map import BATCH, Layer, Tensor


class LoweringError(UsageError):
    """A layer that has no program yet; the text names the part, the cause and the mend."""


def lower(layer: Layer) -> Program:
    """Return the forward program of ``layer``; its inputs are the layer's inputs, then its parameters.

    Equations are named ``<layer>/define-<name>`` for definitions and ``<layer>/forward`` for the output.
    """
    inputs = tuple(declared(t, layer.name) for t in (*layer.inputs, *layer.parameters))
    emitter = Emitter({v.name: v for v in inputs})
    steps = [(d, f"{layer.name}/define-{d.name}") for d in layer.definitions]
    steps.append((layer.output, f"{layer.name}/forward"))
    for definition, equation in steps:
        if not definition.indices:
            raise LoweringError(
                f"layer {layer.name!r}: {definition.name!r} has no axis; code needs at least the batch axis"
            )
        refuse_bare_indices(definition.expression, layer.name)
        form = normalise(printable(definition.expression))
        _refuse(form, layer.name)
        try:
            emitter.assign(Value(definition.name, definition.indices), form, equation)
        except ProgramError as problem:
            raise LoweringError(f"layer {layer.name!r}: no code yet for the index arithmetic: {problem}") from problem
    return Program(layer.name, inputs, layer.scalars, tuple(emitter.instructions), (layer.output.name,))


def declared(tensor: Tensor, layer: str) -> Value:
    """Return the program's input for a declared tensor, a fresh index an axis; refuse what has no code yet."""
    if tensor.values is not None:
        raise LoweringError(f"layer {layer!r}: {tensor.name!r} holds integers; code for look-ups does not exist yet")
    if not tensor.axes:
        raise LoweringError(f"layer {layer!r}: {tensor.name!r} has no axis; declare it with an axis of length 1")
    batch = [a for a in tensor.axes if a == BATCH.size][:1]
    lead = (BATCH,) if batch else ()
    return Value(
        tensor.name, (*lead, *(Index(f"_{tensor.name}_{k}", a) for k, a in enumerate(tensor.axes[len(lead) :])))
    )


def _refuse(expression: Expr, layer: str) -> None:
    """Raise ``LoweringError`` for the first part that has no code yet; index arithmetic under a sum may be a link."""
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, Reduction | Softmax):
            raise LoweringError(f"layer {layer!r}: no code by contractions alone for {type(part).__name__}")
        if isinstance(part, Indexed) and len(set(part.indices)) != len(part.indices):
            raise LoweringError(
                f"layer {layer!r}: no code yet for the diagonal {part}; use a different index on each axis"
            )
    for part in _outside_sums(expression):
        if is_guard(part):
            raise LoweringError(f"layer {layer!r}: no code yet for the guard {part} outside a sum")
        if isinstance(part, Indexed) and not all(isinstance(i, Index) for i in part.indices):
            raise LoweringError(
                f"layer {layer!r}: no code yet for the index arithmetic in {part}; use one index an axis"
            )


def _outside_sums(expression: Expr) -> Iterator[Expr]:
    """Every part of an expression that stands under no sum."""
    yield expression
    if not isinstance(expression, IndexedSum | Indexed):
        for part in expression.args:
            yield from _outside_sums(part)


def refuse_bare_indices(expression: Expr, layer: str) -> None:
    """Raise ``LoweringError`` for an index that stands as a number, outside brackets and conditions."""
    if isinstance(expression, Indexed) or is_guard(expression):
        return
    if isinstance(expression, Index):
        raise LoweringError(
            f"layer {layer!r}: no code yet for the index {expression} used as a number; give the numbers as an input"
        )
    parts = (expression.body,) if isinstance(expression, Binder) else expression.args
    for part in parts:
        if (isinstance(part, Expr) and not isinstance(part, Symbol)) or isinstance(part, Index):
            refuse_bare_indices(part, layer)
