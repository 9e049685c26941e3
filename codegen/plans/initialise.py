"""The variance-preserving deviation of a weight, from the forward map (theory section 2, "Scale, initialisation").

With independent weights of standard deviation sigma, ``Var z = sigma**2 sum (dz/dW)**2``; the sum is the weight's part
of the self factor. For a map that cancels, that part tends to a constant as the input grows, and sigma makes the
variance there one.
"""

from __future__ import annotations

import sympy
from sympy import Dummy, Expr

from derive.algebra.differentiate import differentiate, expand_definitions
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum
from derive.algebra.normal import normalise
from derive.errors import UsageError
from derive.forward_map import Layer


def weight_deviation(layer: Layer) -> Expr:
    """Return sigma as an expression of the layer's scalars; the weight is the parameter with the most axes.

    Raises ``UsageError`` if the output's variance has no finite limit as the input grows.
    """
    weight = max(layer.parameters, key=lambda p: len(p.axes))
    indices = tuple(Index(f"_w{k}", axis) for k, axis in enumerate(weight.axes))
    slope = differentiate(layer.output.expression, weight.base[indices], layer.scope)
    variance = normalise(IndexedSum(slope**2, *indices))
    length = Dummy("E", positive=True)
    limit = sympy.limit(_in_length(variance, layer, length), length, sympy.oo)
    if limit.has(Dummy) or limit.is_infinite or limit == 0:
        raise UsageError(
            f"layer {layer.name!r}: the variance of the output has no limit, so no scale of {weight.name} preserves it"
        )
    return 1 / sympy.sqrt(limit)


def _in_length(variance: Expr, layer: Layer, length: Dummy) -> Expr:
    """Write the variance as a function of the input's squared length, the only length that it may depend on."""
    expanded = normalise(expand_definitions(variance, layer.scope))
    sums = {part: length for part in expanded.atoms(IndexedSum) if not part.body.has(IndexedSum)}
    if len(sums) > 1:
        raise UsageError(f"layer {layer.name!r}: the variance of the output depends on more than one length")
    return expanded.xreplace(sums)
