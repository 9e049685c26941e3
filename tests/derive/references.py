"""Independent references of the layers: forward maps in PyTorch, and their kernels by automatic differentiation.

A reference takes inputs and parameters by name and returns the output, all with the layer's own axes.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import sympy
import torch
import torch.nn.functional as F
from sympy import Expr
from torch import Tensor

import derive
from derive.algebra.index import Index
from derive.forward_map import Layer
from tests.derive.algebra.brute import World, value

Named = Mapping[str, Tensor]
Sizes = Mapping[str, int]
Reference = Callable[[Named, Sizes], Tensor]
CLOSE = 1e-9


def linear(v: Named, s: Sizes) -> Tensor:
    return F.linear(v["x"], v["W"])


def affine(v: Named, s: Sizes) -> Tensor:
    return F.linear(v["x"], v["W"], v["b"])


def convolution(*axes: str) -> Reference:
    operator = (F.conv1d, F.conv2d, F.conv3d)[len(axes) - 1]

    def reference(v: Named, s: Sizes) -> Tensor:
        stride, padding, dilation = ([s[word + a] for a in axes] for word in ("stride", "padding", "dilation"))
        return operator(v["x"], v["W"], v["b"], stride, padding, dilation)

    return reference


def grouped_convolution(v: Named, s: Sizes) -> Tensor:
    groups, channels = s["G"], s["C"]
    x = v["x"].flatten(1, 2)
    assert x.shape[1] == groups * channels
    stride, padding, dilation = ([s[word + a] for a in "hw"] for word in ("stride", "padding", "dilation"))
    z = F.conv2d(x, v["W"].flatten(0, 1), v["b"].flatten(), stride, padding, dilation, groups)
    return z.unflatten(1, (groups, s["O"]))


def transposed_convolution(*axes: str) -> Reference:
    operator = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(axes) - 1]

    def reference(v: Named, s: Sizes) -> Tensor:
        stride, padding, dilation = ([s[word + a] for a in axes] for word in ("stride", "padding", "dilation"))
        return operator(v["x"], v["W"], v["b"], stride, padding, dilation=dilation)

    return reference


def embedding(v: Named, s: Sizes) -> Tensor:
    return F.embedding(v["t"], v["W"])


def embedding_bag(v: Named, s: Sizes) -> Tensor:
    return F.embedding_bag(v["t"], v["W"], mode="sum")


def heads(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Project tokens ``[B, T, n]`` by all heads at once: ``[B, R, T, d]``."""
    flat = F.linear(x, W.flatten(0, 1), b.flatten())
    return flat.unflatten(-1, W.shape[:2]).transpose(1, 2)


def projection(v: Named, s: Sizes) -> Tensor:
    return heads(v["x"], v["W"], v["b"])


def scores(v: Named, s: Sizes) -> Tensor:
    queries, keys = heads(v["x"], v["WQ"], v["bQ"]), heads(v["y"], v["WK"], v["bK"])
    return queries @ keys.mT / math.sqrt(s["d"])


def qk_norm_scores(v: Named, s: Sizes) -> Tensor:
    queries, keys = heads(v["x"], v["WQ"], v["bQ"]), heads(v["y"], v["WK"], v["bK"])
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT


def value_path(v: Named, s: Sizes) -> Tensor:
    return v["E"].log().softmax(-1) @ heads(v["y"], v["W"], v["b"])


def output_projection(v: Named, s: Sizes) -> Tensor:
    return F.linear(v["c"].transpose(1, 2).flatten(2), v["W"].flatten(1), v["b"])


def low_rank(v: Named, s: Sizes) -> Tensor:
    return v["x"] @ v["A"].T @ v["U"].T


def gated(v: Named, s: Sizes) -> Tensor:
    return F.glu(torch.cat([v["x"] @ v["W"].T, v["x"] @ v["V"].T], -1))


def gain(v: Named, s: Sizes) -> Tensor:
    return v["gamma"] * v["x"] + v["beta"]


def l2_norm(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=0.0)


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=0.0)


def batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True, eps=1e-300)  # PyTorch requires a positive eps


def before(norm: Callable[[Tensor], Tensor], reference: Reference) -> Reference:
    return lambda v, s: reference({**v, "x": norm(v["x"])}, s)


def after(norm: Callable[[Tensor], Tensor], reference: Reference) -> Reference:
    return lambda v, s: norm(reference(v, s))


@dataclass(frozen=True)
class Trial:
    """A layer and its reference at given sizes, with random numbers in every tensor."""

    layer: Layer
    reference: Reference
    sizes: Sizes
    seed: int = 0
    positive: tuple[str, ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for declared in (*self.layer.inputs, *self.layer.parameters):
            if declared.name in self.tensors:
                continue
            shape = [self.world_size(a) for a in declared.axes]
            if declared.values is not None:
                top = self.world_size(declared.values)
                self.tensors[declared.name] = torch.randint(top, shape, generator=generator)
            else:
                drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
                self.tensors[declared.name] = drawn.exp() if declared.name in self.positive else drawn

    def world_size(self, expression: Expr) -> int:
        return int(expression.subs({symbol: self.sizes[symbol.name] for symbol in expression.free_symbols}))

    def world(self, **tensors: Tensor) -> World:
        """The numbers of this trial and those of ``tensors``, for the plain evaluator."""
        declared = (*self.layer.inputs, *self.layer.parameters)
        sizes = {symbol: self.sizes[symbol.name] for symbol in self.layer.sizes if symbol.is_Symbol}
        definitions = {d.name: d for d in (*self.layer.definitions, self.layer.output)}
        world = World(sizes, {t.name: t.axes for t in declared}, definitions=definitions, scalars=self.scalars)
        for name, tensor in {**self.tensors, **tensors}.items():
            for place in itertools.product(*map(range, tensor.shape)):
                world.numbers[name, place] = float(tensor[place])
        for name, tensor in tensors.items():
            world.shapes = {**world.shapes, name: tuple(map(sympy.Integer, tensor.shape))}
        return world

    def output(self, **changed: Tensor) -> Tensor:
        return self.reference({**self.tensors, **changed}, self.sizes)

    def kernel(self) -> Tensor:
        """``K`` by automatic differentiation, with the output's axes twice."""
        names = [p.name for p in self.layer.parameters]
        found = torch.autograd.functional.jacobian(
            lambda *p: self.output(**dict(zip(names, p, strict=True))), tuple(self.tensors[n] for n in names)
        )
        shape = self.output().shape
        rows = torch.cat([block.reshape(shape.numel(), -1) for block in found], 1)
        return (rows @ rows.T).reshape(*shape, *shape)

    def gradient(self, name: str, cotangent: Tensor) -> Tensor:
        """The gradient of ``sum(cotangent * output)`` with respect to an input or a parameter."""
        leaf = self.tensors[name].clone().requires_grad_()
        (slope,) = torch.autograd.grad((self.output(**{name: leaf}) * cotangent).sum(), leaf)
        return slope

    def places(self, most: int = 60) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Pairs of output positions: all, or a random selection in which half differ in one axis only."""
        shape = self.output().shape
        single = list(itertools.product(*map(range, shape)))
        pairs = list(itertools.product(single, single))
        if len(pairs) > most:
            draw = random.Random(self.seed)
            near = [(a, b) for a in single for b in single if sum(p != q for p, q in zip(a, b, strict=True)) < 2]
            pairs = draw.sample(pairs, most // 2) + draw.sample(near, min(most // 2, len(near)))
        yield from pairs


def numbers(expression: Expr, world: World, *environments: Mapping[Index, int]) -> list[float]:
    """The values of an expression at several assignments of its free indices."""
    return [float(value(expression, at, world)) for at in environments]


def trial(name: str, reference: Reference, *sizes: Sizes, positive: tuple[str, ...] = ()) -> Trial:
    """The trial of a layer by name; later sizes override earlier ones."""
    return Trial(derive.layer(name), reference, {k: v for some in sizes for k, v in some.items()}, positive=positive)
