"""Numbers of any size in arrays of the usual types: each entry has a mantissa and its own power of two.

    value = mantissa * 2**exponent,    2 <= |mantissa| < 4 directly after normalisation, or zero

The square of an input of 1e30 overflows float32, and JAX has float64 only if it is switched on for the whole process.
Exponents are integers, which derivatives treat as constants, so results can be differentiated any number of times, and
no derivative leaves the range either. A sum is computed in units of its largest entry; entries smaller than that by
more than the type's range (2**126 for float32) count as zero.

A tangent may only be added to tangents and multiplied by numbers that are not tangents, so that JAX can transpose the
operations on it: its mantissa is never normalised, and its size is never read.

Functions take arrays, numbers and ``Wide`` alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

_LONGEST = 3  # powers of a mantissa up to this one need no normalisation
_LOWERED = 100  # in powers of two; the range of float32 is larger by 2**27
NONE = -(2**24)  # smaller than any exponent
_TYPES: dict[Any, tuple[Any, int, int]] = {  # integer type of the bits, mantissa bits, exponent bias
    jnp.dtype("float32"): (jnp.int32, 23, 127),
    jnp.dtype("float64"): (jnp.int64, 52, 1023),
}


@jax.tree_util.register_pytree_node_class
class Wide:
    """Numbers of any size; arithmetic operators work between ``Wide`` and with arrays and numbers."""

    __array_priority__ = 1000

    def __init__(self, mantissa: Any, exponent: Any, linear: bool = False) -> None:
        self.mantissa, self.exponent, self.linear = mantissa, exponent, linear

    def tree_flatten(self) -> tuple[tuple[Any, Any], bool]:
        """Return the two arrays, and whether they are a tangent's, for JAX."""
        return (self.mantissa, self.exponent), self.linear

    @classmethod
    def tree_unflatten(cls, linear: bool, arrays: tuple[Any, Any]) -> Wide:
        """Return the number made of two arrays, for JAX."""
        return cls(*arrays, linear)

    @property
    def rank(self) -> Array:
        """The exponent for choosing units: smaller than any other for a zero."""
        return self.exponent if self.linear else jnp.where(self.mantissa == 0, NONE, self.exponent)

    @property
    def modest(self) -> Wide:
        """The same number, its zeros with the smallest exponent of the others, at most ``_LOWERED`` below their own.

        The size of a product with a tangent is never read, so a zero with a large exponent would set the unit of the
        whole sum. Derivatives with respect to the zeros do not change.
        """
        if self.linear:
            return self
        is_zero = self.mantissa == 0
        least = jnp.where(is_zero, -NONE, self.exponent).min(initial=-NONE)
        lowered = jnp.where(is_zero, jnp.clip(self.exponent - least, 0, _LOWERED), 0)
        return Wide(_scaled(self.mantissa, lowered), self.exponent - lowered)

    def top(self, axes: tuple[int, ...]) -> Array:
        """Return the exponent of the largest number along some axes, which keep length 1."""
        found = self.rank.max(axes, keepdims=True, initial=NONE)
        return jnp.where(found == NONE, self.exponent.max(axes, keepdims=True, initial=NONE), found)

    def moved(self, function: Callable[[Any], Any]) -> Wide:
        """Return the number after a function that only moves entries is applied to both arrays."""
        return Wide(function(self.mantissa), function(self.exponent), self.linear)

    def shifted(self, exponent: Array) -> Wide:
        """Return the number times a power of two."""
        return Wide(self.mantissa, self.exponent + exponent, self.linear)

    def __getitem__(self, key: Any) -> Wide:
        return self.moved(lambda array: array[key])

    def transpose(self, *order: int) -> Wide:
        """Return the number with its axes permuted."""
        return self.moved(lambda array: array.transpose(*order))

    def __neg__(self) -> Wide:
        return Wide(-self.mantissa, self.exponent, self.linear)

    def __add__(self, other: Any) -> Wide:
        other = of(other, self)
        highest = jnp.maximum(self.exponent, other.exponent)
        ranks = jnp.maximum(self.rank, other.rank)
        top = jnp.where(ranks == NONE, highest, ranks)
        return normalised(in_units(self, top) + in_units(other, top), top, self.linear or other.linear)

    def __sub__(self, other: Any) -> Wide:
        return self + -of(other, self)

    def __mul__(self, other: Any) -> Wide:
        other = of(other, self)
        linear = self.linear or other.linear
        one, two = (self.modest, other.modest) if linear else (self, other)
        return Wide(one.mantissa * two.mantissa, one.exponent + two.exponent, linear)

    def __truediv__(self, other: Any) -> Wide:
        found: Wide = self * power(of(other, self), -1)
        return found

    def __pow__(self, exponent: int) -> Wide:
        found: Wide = power(self, exponent)
        return found

    def __rsub__(self, other: Any) -> Wide:
        return of(other, self) - self

    def __rtruediv__(self, other: Any) -> Wide:
        return of(other, self) / self

    __radd__, __rmul__ = __add__, __mul__


def computing(*arrays: Array) -> tuple[Array, ...]:
    """Return arrays in the type of computation, which is at least float32."""
    return tuple(a.astype(type_of(a.dtype)) for a in arrays)


def of(value: Any, like: Wide | None = None) -> Wide:
    """Return an array of float32 or float64, or a number, as a wide one, in the type of ``like``."""
    if isinstance(value, Wide):
        return value
    if isinstance(value, int | float):
        mantissa, exponent = math.frexp(value)
        return Wide(jnp.asarray(mantissa, jnp.float32 if like is None else like.mantissa.dtype), jnp.int32(exponent))
    return normalised(value, jnp.zeros(value.shape, jnp.int32))


def linear(tangent: Array) -> Wide:
    """Return a tangent as a wide number."""
    return Wide(tangent, jnp.zeros(tangent.shape, jnp.int32), True)


def narrow(value: Any) -> Any:
    """Return the number as an array, with infinity and zero where it is out of the type's range."""
    if not isinstance(value, Wide):
        return value
    half = value.exponent >> 1
    return _scaled(_scaled(value.mantissa, half), value.exponent - half)


def power(value: Any, above: int, below: int = 1) -> Any:
    """Return the power above/below, exact in the power of two."""
    if not isinstance(value, Wide):
        return value ** (above / below) if below > 1 else value**above
    if below > 1 or not 0 < above <= _LONGEST:
        value = normalised(value.mantissa, value.exponent, value.linear)
    moved = value.exponent * above
    whole = moved >> 1 if below == 2 else moved // below
    mantissa = value.mantissa**above * _power_of_two(moved - whole * below, value.mantissa.dtype)
    return normalised(jnp.sqrt(mantissa) if below == 2 else mantissa ** (1 / below), whole)


def sqrt(value: Any) -> Any:
    """Return the square root."""
    return power(value, 1, 2) if isinstance(value, Wide) else jnp.sqrt(value)


def absolute(value: Any) -> Any:
    """Return the absolute value."""
    return Wide(jnp.abs(value.mantissa), value.exponent) if isinstance(value, Wide) else jnp.abs(value)


def where(condition: Any, value: Any, otherwise: Any) -> Any:
    """Return one value where a condition holds, else the other."""
    if not any(isinstance(v, Wide) for v in (value, otherwise)):
        return jnp.where(condition, value, otherwise)
    like = value if isinstance(value, Wide) else otherwise
    one, two = of(value, like), of(otherwise, like)
    return Wide(jnp.where(condition, one.mantissa, two.mantissa), jnp.where(condition, one.exponent, two.exponent))


def less(one: Any, two: Any) -> Any:
    """Return a mask: where the first is smaller."""
    if not any(isinstance(v, Wide) for v in (one, two)):
        return one < two
    return (of(one, two if isinstance(two, Wide) else None) - two).mantissa < 0


def equal(one: Any, two: Any) -> Any:
    """Return a mask: where both are equal."""
    if not any(isinstance(v, Wide) for v in (one, two)):
        return one == two
    return (of(one, two if isinstance(two, Wide) else None) - two).mantissa == 0


def maximum(one: Any, two: Any) -> Any:
    """Return the larger of two, the first where they are equal."""
    return where(less(one, two), two, one)


def minimum(one: Any, two: Any) -> Any:
    """Return the smaller of two, the first where they are equal."""
    return where(less(two, one), two, one)


def spread(value: Any, shape: Sequence[int]) -> Any:
    """Return the value broadcast to a shape."""
    along = tuple(shape)
    return (
        value.moved(lambda a: jnp.broadcast_to(a, along)) if isinstance(value, Wide) else jnp.broadcast_to(value, along)
    )


def contract(equation: str, *operands: Any, dtype: Any = None, samples: str = "") -> Wide:
    """Return a sum of products like ``jnp.einsum``; each wide operand is in units of its largest summed entry.

    Args:
        equation: as for ``jnp.einsum``.
        operands: wide numbers, and arrays of moderate size, which are used unchanged.
        dtype: the type that all operands were given in, for products in that type; None for the type of computation.
        samples: the letter of the sample axis if two wide operands are summed along it: a large sample of one may be
        multiplied by a small one of the other, so each sample has its own unit.
    """
    inside, outside = equation.split("->")
    if samples:
        operands = _balanced(inside.split(","), operands, samples)
    mantissas, exponent = [], jnp.zeros((), jnp.int32)
    for letters, operand in zip(inside.split(","), operands, strict=True):
        if not isinstance(operand, Wide):
            mantissas.append(operand)
            continue
        summed = tuple(k for k, letter in enumerate(letters) if letter not in outside)
        top = operand.top(summed)
        mantissas.append(in_units(operand, top))
        kept = [letter for letter in letters if letter in outside]
        order = sorted(range(len(kept)), key=lambda k: outside.index(kept[k]))
        here = tuple(slice(None) if letter in kept else None for letter in outside)
        exponent = exponent + top.squeeze(summed).transpose(order)[here]
    if dtype is not None:
        mantissas = [m.astype(dtype) for m in mantissas]
    found = jnp.einsum(equation, *mantissas, preferred_element_type=type_of(mantissas[0].dtype))
    return normalised(found, exponent, any(isinstance(o, Wide) and o.linear for o in operands))


def _balanced(places: Sequence[str], operands: Sequence[Any], samples: str) -> tuple[Any, ...]:
    """Return two operands after moving the size of each sample from the first to the second."""
    (one, two), axis, other = operands, places[0].index(samples), places[1].index(samples)
    size = one.top(tuple(k for k in range(one.exponent.ndim) if k != axis))
    shape = [1] * two.exponent.ndim
    shape[other] = size.size
    return one.shifted(-size), two.shifted(size.reshape(shape))


def total(value: Any, axes: tuple[int, ...]) -> Any:
    """Return the sum along some axes, which keep length 1; wide numbers in units of the largest."""
    if not isinstance(value, Wide):
        return value.sum(axes, keepdims=True)
    top = value.top(axes)
    return normalised(in_units(value, top).sum(axes, keepdims=True), top, value.linear)


def normalised(mantissa: Array, exponent: Array, linear: bool = False) -> Wide:
    """Return the number with a mantissa from 2 to 4; a zero does not change, so that its derivatives are right."""
    if linear:
        return Wide(mantissa, exponent, linear)
    integers, digits, bias = _TYPES[mantissa.dtype]
    bits = lax.bitcast_convert_type(lax.stop_gradient(mantissa), integers)
    field = (bits >> digits) & (2 * bias + 1)
    own = jnp.where(field == 0, 0, jnp.minimum(field - (bias + 1), bias - 1)).astype(jnp.int32)
    return Wide(_scaled(mantissa, -own), exponent + own)


def in_units(value: Wide, top: Any) -> Array:
    """Return the number in units of 2**top, which must not be smaller than its own; zero if it underflows."""
    return _scaled(value.mantissa, value.exponent - top)


def _scaled(array: Array, exponent: Array) -> Array:
    """Return the array times a power of two; zero if the power underflows."""
    return array * _power_of_two(exponent, array.dtype)


def _power_of_two(exponent: Array, dtype: Any) -> Array:
    integers, digits, bias = _TYPES[dtype]
    field = (jnp.clip(exponent, -bias, bias) + bias).astype(integers)
    return lax.bitcast_convert_type(field << digits, dtype)


def type_of(dtype: Any) -> Any:
    """Return the type of computation for arrays of a type."""
    return jnp.promote_types(dtype, jnp.float32)


def product(equation: str, one: Array, two: Array, dtype: Any) -> Array:
    """Return a sum of products of two arrays in a type, accumulated in at least float32."""
    return jnp.einsum(equation, one.astype(dtype), two.astype(dtype), preferred_element_type=type_of(dtype))
