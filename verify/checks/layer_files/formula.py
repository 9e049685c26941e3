"""Evaluate a layer's formula with torch operations, directly from its expression; autograd differentiates it.

Every value carries the indices that it depends on, one axis each. A sum of products is one ``torch.einsum``. An entry
at a computed position is a gather with positions clipped into the tensor, since its guard is 0 outside. Nothing is
rewritten.
"""

from __future__ import annotations

import functools
import math
import operator
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Pow, Symbol
from torch import Tensor

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.named import named
from derive.algebra.nodes import AtMost, Divides, IndexedSum, Within, rename
from derive.algebra.reductions import Largest, LogSumExp, Masked, Product, Reduction, Softmax, Stopped
from derive.forward_map import Layer

_FUNCTIONS: dict[type[Expr], Callable[[Tensor], Tensor]] = {
    sympy.exp: torch.exp,
    sympy.Heaviside: lambda v: torch.heaviside(v, v.new_tensor(0.5)),
    sympy.log: torch.log,
    sympy.tanh: torch.tanh,
    sympy.sin: torch.sin,
    sympy.cos: torch.cos,
    sympy.atan: torch.atan,
    sympy.Abs: torch.abs,
    sympy.sign: torch.sign,
    Stopped: torch.detach,
    named("relu"): torch.relu,
    named("sigmoid"): torch.sigmoid,
    named("silu"): torch.nn.functional.silu,
    named("gelu"): torch.nn.functional.gelu,
    named("gelu_tanh"): functools.partial(torch.nn.functional.gelu, approximate="tanh"),
    named("softplus"): lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    named("erf"): torch.erf,
    named("elu"): torch.nn.functional.elu,
}
_REDUCTIONS: dict[type[Expr], Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    LogSumExp: torch.logsumexp,
    Largest: torch.amax,
    Product: lambda a, dims: torch.prod(a.flatten(dims[0]), dim=-1),
}


@dataclass(frozen=True)
class Named:
    """A tensor and the index of each of its axes."""

    tensor: Tensor
    axes: tuple[Index, ...] = ()

    def along(self, axes: tuple[Index, ...]) -> Tensor:
        """Return the tensor with the given axes; an axis that it does not depend on has length one."""
        there = [axis for axis in axes if axis in self.axes]
        moved = self.tensor.permute([self.axes.index(axis) for axis in there])
        lengths = iter(moved.shape)
        return moved.reshape([next(lengths) if axis in self.axes else 1 for axis in axes])


@dataclass
class Formula:
    """A layer's expressions at given tensors, symbol values and sizes; intermediates are computed once.

    ``energy`` names the intermediate E of a scale 1/sqrt(E). Where E is 0, the scale and its derivative are 0, as the
    generated maps define it.
    """

    layer: Layer
    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, float]
    sizes: Mapping[str, int]
    energy: str = ""
    _found: dict[str, Named] = field(default_factory=dict)

    def output(self) -> Tensor:
        """Return the layer's output with its declared axes, batch first."""
        output = self.layer.output
        return self.expanded(self.value(output.expression), output.indices)

    def expanded(self, value: Named, axes: tuple[Index, ...]) -> Tensor:
        """Return a value with the given axes at their full lengths."""
        return value.along(axes).expand([self.length(axis.size) for axis in axes])

    def length(self, size: Expr) -> int:
        """Return the length of an axis."""
        return int(size.subs({symbol: self.sizes[symbol.name] for symbol in size.free_symbols}))

    def value(self, expression: Expr) -> Named:
        """Return the value of an expression."""
        match expression:
            case Index():
                return Named(torch.arange(self.length(expression.size), device=self._like.device), (expression,))
            case sympy.Number() | sympy.NumberSymbol():
                return Named(torch.tensor(_number(expression), **self._type(not expression.is_Integer)))
            case Symbol():
                given = {**self.sizes, **self.scalars}[expression.name]
                return Named(torch.tensor(given, **self._type(isinstance(given, float))))
            case IndexedSum():
                body, bound = expression.renamed()  # rename bound indices to avoid capture
                return self._sum(body, bound)
            case Softmax() if (share := self._share(expression)) is not None:
                return share
            case Reduction():
                body, bound = expression.renamed()
                found = self.value(body)
                axes = tuple(axis for axis in found.axes if axis not in bound)
                whole = self.expanded(found, (*axes, *bound))
                return Named(_REDUCTIONS[type(expression)](whole, tuple(range(len(axes), whole.ndim))), axes)
            case Indexed():
                return self._entry(expression)
            case Pow():
                base, exponent = map(self.value, expression.args)
                return _joined(_power, base, exponent)
            case Mul():
                return self._product(expression.args, ())
            case _:
                return self._applied(expression)

    @property
    def _like(self) -> Tensor:
        """Any tensor of real numbers; its dtype and device are used for constants."""
        return next(t for t in self.tensors.values() if t.is_floating_point())

    def _type(self, real: bool) -> dict[str, Any]:
        like = self._like
        return {"device": like.device, "dtype": like.dtype if real else torch.long}

    def _applied(self, expression: Expr) -> Named:
        kind = type(expression)
        arguments = [self.value(a) for a in (expression.args[:1] if kind in _FUNCTIONS else expression.args)]
        if kind in _FUNCTIONS:
            real = _FUNCTIONS[kind]
            return Named(real(arguments[0].tensor.to(self._like.dtype)), arguments[0].axes)
        pairs: dict[type[Expr], Callable[[Tensor, Tensor], Tensor]] = {
            Add: operator.add,
            sympy.Max: torch.maximum,
            sympy.Min: torch.minimum,
            KroneckerDelta: lambda a, b: (a == b).to(self._like.dtype),
            Within: lambda a, n: ((a >= 0) & (a < n)).to(self._like.dtype),
            AtMost: lambda a, b: (a <= b).to(self._like.dtype),
            Masked: lambda a, mask: torch.where(mask != 0, a, -torch.inf),
            Quotient: lambda a, d: torch.div(a, d, rounding_mode="floor"),
            Remainder: torch.remainder,
            Softmax: lambda a, whole: torch.exp(a - whole),
            Divides: lambda d, a: (a % d == 0).to(self._like.dtype),
        }
        if kind not in pairs:
            raise TypeError(f"no rule to evaluate {kind.__name__} on tensors: {expression}")
        if kind in (sympy.Max, sympy.Min) and any(a.tensor.is_floating_point() for a in arguments):
            arguments = [Named(a.tensor.to(self._like.dtype), a.axes) for a in arguments]
        return functools.reduce(functools.partial(_joined, pairs[kind]), arguments)

    def _share(self, expression: Softmax) -> Named | None:
        """Return torch's softmax if the expression is a softmax along one index; else None."""
        place = expression.place or {}
        at = next(iter(place.values()), None)
        if len(place) != 1 or not isinstance(at, Index):
            return None
        found = self.value(rename(expression.args[1].body, place))
        if at not in found.axes:
            return None
        return Named(torch.softmax(found.tensor, found.axes.index(at)), found.axes)

    def _sum(self, body: Expr, bound: tuple[Index, ...]) -> Named:
        if isinstance(body, Add):
            return functools.reduce(functools.partial(_joined, operator.add), (self._sum(a, bound) for a in body.args))
        return self._product(Mul.make_args(body), bound)

    def _product(self, factors: tuple[Expr, ...], bound: tuple[Index, ...]) -> Named:
        """Return the product of the factors, summed over the bound indices; an unused one multiplies by its length."""
        found = [self.value(f) for f in factors]
        if not bound and not any(v.tensor.is_floating_point() for v in found):
            return functools.reduce(functools.partial(_joined, operator.mul), found)
        found = [Named(v.tensor.to(self._like.dtype), v.axes) for v in found]
        axes = tuple(dict.fromkeys(axis for v in found for axis in v.axes))
        letters = dict(zip(axes, string.ascii_letters, strict=False))
        kept = tuple(axis for axis in axes if axis not in bound)
        words = ",".join("".join(letters[axis] for axis in v.axes) for v in found)
        total = torch.einsum(f"{words}->{''.join(letters[axis] for axis in kept)}", *(v.tensor for v in found))
        missing = math.prod(self.length(axis.size) for axis in bound if axis not in axes)
        return Named(total * missing if missing != 1 else total, kept)

    def _entry(self, expression: Indexed) -> Named:
        """Return an entry of a tensor or of an intermediate."""
        tensor = self._tensor(str(expression.base.label))
        indices = tuple(expression.indices)
        if all(isinstance(i, Index) for i in indices) and len(set(indices)) == len(indices):
            return Named(tensor, indices)
        positions = [self.value(i) for i in indices]
        axes = tuple(dict.fromkeys(axis for p in positions for axis in p.axes))
        places = [p.along(axes).long().clamp(0, length - 1) for p, length in zip(positions, tensor.shape, strict=True)]
        return Named(tensor[tuple(places)], axes)

    def _tensor(self, name: str) -> Tensor:
        if name in self.tensors:
            return self.tensors[name]
        if name not in self._found:
            definition = next(d for d in self.layer.definitions if d.name == name)
            found = self.expanded(self.value(definition.expression), definition.indices)
            found = torch.where(found == 0, torch.inf, found) if name == self.energy else found
            self._found[name] = Named(found)
        return self._found[name].tensor


def _joined(operation: Callable[[Tensor, Tensor], Tensor], left: Named, right: Named) -> Named:
    axes = tuple(dict.fromkeys((*left.axes, *right.axes)))
    return Named(operation(left.along(axes), right.along(axes)), axes)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """Return a power; whole powers by multiplication, so that a negative base has a derivative."""
    number = float(exponent)
    whole = number.is_integer() and number >= 0
    base = base if base.is_floating_point() or whole else base.double()  # roots of sizes are taken in float64
    if number == 0.5:
        return base.sqrt()
    if number == -0.5:
        return 1 / base.sqrt()
    return base ** (int(number) if number.is_integer() else number)


def _number(expression: Expr) -> float | int:
    return int(expression) if expression.is_Integer else float(expression)
