"""Register kernel launchers as operators, opaque to compilers, with their derivatives and batching rules.

A map is a pair of operators. ``forward`` takes tensors, then settings, and returns the output, then the kept values.
``backward`` takes the gradient with respect to the output, the tensors, the kept values, the settings and which
gradients are wanted, and returns one gradient per tensor, empty if it is not wanted. The autograd functions of the
torch target do everything that has no kernel: second derivatives, an additional axis, tensors without values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

_PACKAGE = __name__.removesuffix(".runtime.operators")
_NAME = _PACKAGE.replace(".", "_")
LIBRARY = torch.library.Library(_NAME, "FRAGMENT")  # type: ignore[no-untyped-call]

Pass = Callable[..., Any]
Tensors = tuple[Tensor, ...]


def register(name: str, schema: str, kernels: Pass, shapes: Pass) -> Pass:
    """Register and return ``kernels`` as an operator opaque to compilers; ``shapes`` returns tensors like its results.

    If a package of the same name was imported before and has taken the name, the name is extended.
    """
    count, free = 1, name
    while hasattr(getattr(torch.ops, LIBRARY.ns), free):
        count += 1
        free = f"{name}_{count}"
    LIBRARY.define(free + schema)  # type: ignore[no-untyped-call]
    for device in ("CUDA", "CPU"):
        LIBRARY.impl(free, kernels, device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{LIBRARY.ns}::{free}", shapes, lib=LIBRARY)
    operator: Pass = getattr(getattr(torch.ops, LIBRARY.ns), free).default
    return operator


class Kept:
    """Replaces autograd's context inside an operator: saved tensors, and which gradients are wanted."""

    ready: Any = None
    kappa: float

    def __init__(self, wanted: Sequence[bool] = ()) -> None:
        self.needs_input_grad = tuple(wanted)
        self.saved_tensors: Tensors = ()

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep the tensors that the backward pass reads."""
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Tensor) -> None:
        """Keep nothing: inside an operator there are no tangents."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Do nothing: inside an operator nothing is differentiated."""

    def set_materialize_grads(self, value: bool) -> None:
        """Do nothing: a pass inside an operator gets every gradient."""


class Schemas(Protocol):
    """The schemas of the two operators of a map."""

    @property
    def forward(self) -> str:
        """The schema of the forward pass."""

    @property
    def backward(self) -> str:
        """The schema of the backward pass."""


class Signature(NamedTuple):
    """A map's tensors by name, its settings with their types, and its number of kept results."""

    tensors: Sequence[str]
    settings: Sequence[str]
    kept: int

    @property
    def forward(self) -> str:
        """The schema of the forward pass."""
        tensors = [f"Tensor {name}_" for name in self.tensors]
        return f"({', '.join([*tensors, *self.settings])}) -> ({', '.join(['Tensor'] * (1 + max(1, self.kept)))})"

    @property
    def backward(self) -> str:
        """The schema of the backward pass."""
        tensors = [f"Tensor {name}_" for name in ("g", *self.tensors)]
        kept = [f"Tensor kept{k}" for k in range(self.kept)]
        given = [*tensors, *kept, *self.settings, "bool[] wanted"]
        return f"({', '.join(given)}) -> ({', '.join(['Tensor'] * len(self.tensors))})"


class Passes:
    """Both passes of an autograd function, called with the arguments of the operators.

    Args:
        function: the function that is run.
        plain: the torch target's function, which decides what is kept.
        count: the number of tensors that the map takes.
        kept: the number of results that it keeps.
        saved: the positions of the tensors that the backward pass reads, if not all.
    """

    def __init__(self, function: Any, plain: Any, count: int, kept: int, saved: Sequence[int] | None = None) -> None:
        self._function, self._plain, self.count, self.kept = function, plain, count, kept
        self.saved = range(count) if saved is None else saved

    def results(self, *given: Any) -> Sequence[Any]:
        """Return the output and the kept values, or an empty tensor if there are none, since one result is no list."""
        found = tuple(self._function.forward(*given))
        return found if self.kept else (*found, found[0].new_empty(0))

    def gradients(self, g: Tensor, *given: Any) -> list[Tensor | None]:
        """Return a gradient for each tensor, None if it is not wanted."""
        *rest, wanted = given
        ends = len(self.saved), len(self.saved) + self.kept
        found = self.differentiated(g, self._placed(rest), rest[ends[0] : ends[1]], rest[ends[1] :], wanted)
        return [d if w else None for d, w in zip(found, wanted, strict=False)]

    def differentiated(
        self, g: Tensor, tensors: Sequence[Any], kept: Sequence[Any], settings: Sequence[Any], wanted: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """Return the gradients as the function gives them, with None for settings."""
        context = self.context(g, tensors, kept, settings, wanted)
        found: Sequence[Tensor | None]
        found = self._function.backward(context, g, *[None] * len(kept))
        return found

    def context(
        self, g: Tensor, tensors: Sequence[Any], kept: Sequence[Any], settings: Sequence[Any], wanted: Sequence[bool]
    ) -> Kept:
        """Return the replacement of autograd's context in the backward pass."""
        found = Kept((*wanted, *[False] * len(settings)))
        self._plain.setup_context(found, (*tensors, *settings), (g, *kept))
        return found

    def _placed(self, given: Sequence[Any]) -> list[Any]:
        """Return the tensors of the map, None for those that the backward pass does not read."""
        by_place = dict(zip(self.saved, given, strict=False))
        return [by_place.get(k) for k in range(self.count)]

    def backward_arguments(self, given: Sequence[Any], results: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the backward pass's arguments between the gradient and the wanted flags."""
        return *(given[k] for k in self.saved), *results[1 : 1 + self.kept], *given[self.count :]

    def forward(self, *given: Any) -> Tensors:
        """Return the output and the kept values, each contiguous in memory of its own."""
        with torch.no_grad():
            return apart(self.results(*given), given)

    def backward(self, g: Tensor, *given: Any) -> Tensors:
        """Return a gradient for each tensor, empty if it is not wanted."""
        with torch.no_grad():
            found = [_filled(d, t, w) for d, t, w in zip(self.gradients(g, *given), given, given[-1], strict=False)]
        return apart(found, (g, *given))

    def forward_like(self, *given: Any) -> Tensors:
        """Return tensors like the results, for tracing."""
        return tuple(t.new_empty(t.shape) for t in self.results(*given))

    def backward_like(self, g: Tensor, *given: Any) -> Tensors:
        """Return tensors like the gradients, for tracing."""
        return tuple(t.new_empty(t.shape if w else 0) for t, w in zip(given, given[-1], strict=False))


def register_map(name: str, signature: Schemas, kernels: Passes, plain: Passes) -> Pass:
    """Register a map's operators with their derivatives and return the forward one."""
    forward = register(name, signature.forward, kernels.forward, plain.forward_like)
    backward = register(f"{name}_backward", signature.backward, kernels.backward, plain.backward_like)
    derive(forward, backward, plain)
    return forward


def derive(forward: Pass, backward: Pass, plain: Passes) -> None:
    """Register the derivatives and batching rules of both operators of a map."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        rest = plain.backward_arguments(inputs, output)
        ctx.mark_non_differentiable(*output[1:])
        _save(ctx, rest)

    def differentiate(ctx: Any, g: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        rest, wanted = _saved(ctx), ctx.needs_input_grad[: plain.count]
        if torch.is_grad_enabled():  # second derivatives need operations that autograd supports
            found = plain.gradients(g, *rest, wanted)
        else:
            found = [d if w else None for d, w in zip(backward(g, *rest, wanted), wanted, strict=True)]
        return *found, *[None] * (len(ctx.needs_input_grad) - plain.count)

    complete(forward, differentiate, keep)
    complete_gradients(backward, plain.gradients, 1 + len(plain.saved))


def complete_gradients(operator: Any, function: Pass, count: int) -> None:
    """Register the derivatives of a gradient operator: those of ``function``, for its first ``count`` tensors."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        _save(ctx, inputs)

    def differentiate(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        given, again = _saved(ctx), torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = [_leaf(t) for t in given[:count]]
            found = function(*leaves, *given[count:])
            pairs = [(d, c) for d, c in zip(found, cotangents, strict=True) if d is not None and d.requires_grad]
            moving = [t for t in leaves if t.requires_grad]
            results, towards = [d for d, _ in pairs], [c for _, c in pairs]
            made = torch.autograd.grad(results, moving, towards, create_graph=again, allow_unused=True) if pairs else ()
        by_leaf = iter(made or [None] * len(moving))
        ours = [next(by_leaf) if t.requires_grad else None for t in leaves]
        return *ours, *[None] * (len(ctx.needs_input_grad) - count)

    complete(operator, differentiate, keep)


def complete(operator: Any, backward: Pass, keep: Pass) -> None:
    """Register the derivative of an operator, and its batching rule: one call per entry."""

    def mapped(info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[Tensors, tuple[int, ...]]:
        parts = [
            operator(*(v if axis is None else v.select(axis, k) for v, axis in zip(given, in_dims, strict=True)))
            for k in range(info.batch_size)
        ]
        found = tuple(torch.stack(same) for same in zip(*parts, strict=True))
        return found, (0,) * len(found)

    name = operator._schema.name
    torch.library.register_autograd(name, backward, setup_context=keep, lib=LIBRARY)
    torch.library.register_vmap(name, mapped, lib=LIBRARY)


def _save(ctx: Any, values: Sequence[Any]) -> None:
    """Save tensors through autograd, and all other values as attributes."""
    ctx.others = [None if isinstance(v, Tensor) else (v,) for v in values]
    ctx.save_for_backward(*(v for v in values if isinstance(v, Tensor)))


def _saved(ctx: Any) -> list[Any]:
    tensors = iter(ctx.saved_tensors)
    return [next(tensors) if other is None else other[0] for other in ctx.others]


def _leaf(t: Tensor) -> Tensor:
    """Return a floating-point tensor that derivatives can be taken with respect to, still connected to its origin."""
    found = t.view_as(t)
    return found.requires_grad_() if found.is_floating_point() and not found.requires_grad else found


def _filled(gradient: Tensor | None, of: Tensor, wanted: bool) -> Tensor:
    if gradient is not None:
        return gradient
    return of.new_zeros(of.shape) if wanted else of.new_empty(0)


def apart(found: Sequence[Tensor], given: Sequence[Any]) -> Tensors:
    """Return contiguous results that share no memory with each other or an argument, as operators require."""
    taken = {_place(t) for t in given if isinstance(t, Tensor)}
    made: list[Tensor] = []
    for t in found:
        own = t.is_contiguous() and _place(t) not in taken
        made.append(t if own else t.clone(memory_format=torch.contiguous_format))
        taken.add(_place(t))
    return tuple(made)


def _place(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()
