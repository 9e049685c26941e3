"""The backward pass of a layer, derived from its forward map: ``dx = sum g dz/dx`` and the same for each parameter.

Equation ids: ``<prefix>/backward-dx``, ``<prefix>/backward-dW`` and so on, one for each real input and parameter.
"""

from __future__ import annotations

from sympy import Indexed

from derive.algebra.differentiate import carry_out
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, PartialDerivative, rename, tensor
from derive.algebra.normal import normalise
from derive.forward_map import BATCH, Layer, Tensor
from derive.record import Step

_LETTERS = "abcdejklmnopqruvwy"  # f, g and h name the scales of a map and the loss gradient


def cotangent(layer: Layer) -> Indexed:
    """Return the loss gradient at the output, ``g[s, i]``, under a name that no tensor of the layer has."""
    used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in layer.definitions}
    name = next(n for n in ("g", "g_z", "g_out", "gg") if n not in used)
    return tensor(name)[layer.output.indices]


def free_letters(layer: Layer) -> list[str]:
    """Return index names that are unused in the layer and its parts: no index, tensor, size or scalar has them."""
    taken = {str(s) for s in (*layer.sizes, *layer.scalars)}
    for one in (layer, *layer.parts):
        taken |= {t.name for t in (*one.inputs, *one.parameters)} | {d.name for d in (*one.definitions, one.output)}
    for definition in (*layer.definitions, layer.output):
        taken |= {i.name for i in definition.indices} | {i.name for i in definition.expression.atoms(Index)}
    return [letter for letter in _LETTERS if letter not in taken] + [f"a{k}" for k in range(20)]


def entry_of(declared: Tensor, letters: list[str]) -> Indexed:
    """Return an entry of a declared tensor at indices of its own; a batch axis keeps the batch index."""
    fresh = iter(letters)
    indices = tuple(BATCH if axis == BATCH.size else Index(next(fresh), axis) for axis in declared.axes)
    return declared.base[indices]


def backward(layer: Layer, prefix: str = "") -> tuple[Step, ...]:
    """Return one step for each real input and each parameter: its gradient as an indexed sum."""
    letters = free_letters(layer)
    wanted = [t for t in layer.inputs if t.values is None] + list(layer.parameters)
    return tuple(_gradient(layer, t, letters, prefix or layer.name) for t in wanted)


def _gradient(layer: Layer, declared: Tensor, letters: list[str], prefix: str) -> Step:
    entry = entry_of(declared, letters)
    primes = {i: i.primed() for i in layer.output.indices}
    weight = rename(cotangent(layer), primes)
    # The outputs are summed at primed indices, so that the entry's own batch index stays free.
    before = IndexedSum(weight * PartialDerivative(rename(layer.output.entry, primes), entry), *primes.values())
    slope = carry_out(PartialDerivative(rename(layer.output.expression, primes), entry), layer.scope)
    after = normalise(IndexedSum(weight * slope, *primes.values()))
    scope = (*layer.definitions, layer.output)
    return Step(
        f"{prefix}/backward-d{declared.name}", "chain rule backwards; sum out the deltas", before, before, after, scope
    )
