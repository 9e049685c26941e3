"""One training step of several networks of one shape, recorded as a flat list of tensor operations.

    step of one network ──vmap──▶ of S networks ──make_fx──▶ graph ──tidy──▶ losses, gradients = graph(...)

``torch.func`` and autograd run once, when the graph is recorded; afterwards a step consists only of the operations,
each on all networks. Not supported: networks that draw random numbers or read the value of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy

from verify.training.graph_simplify import tidy

Step = Callable[[list[Tensor], list[Tensor], Tensor, Tensor], tuple[Tensor, list[Tensor]]]

_MOST_KEPT = 64  # cached graphs; a sweep uses one for every method, shape and number of networks
_kept: dict[tuple[object, ...], Step] = {}


def traced_step(model: nn.Module, parameters: list[Tensor], buffers: list[Tensor], x: Tensor, y: Tensor) -> Step:
    """Return the function that computes losses (S,) and their gradients for S networks like ``model``.

    Its arguments have the shapes of the ones given here: parameters and buffers of S networks, stacked along a first
    axis, in the order of ``model``'s own; inputs (S, B, ...); classes (S, B). A loss is the mean cross-entropy of one
    network, in nats; buffers that a network changes are changed in place.

    Raises:
        RuntimeError: the network cannot be recorded.
    """
    shapes = tuple((tuple(t.shape), t.dtype, str(t.device)) for t in (*parameters, *buffers, x, y))
    key = (str(model), model.training, shapes)
    if key not in _kept:
        if len(_kept) == _MOST_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = _record(model, parameters, buffers, x, y)
    return _kept[key]


def stacked_losses(model: nn.Module, parameters: list[Tensor], buffers: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each network, of shape (S,), for the arguments of ``traced_step``'s function."""
    names = [name for name, _ in model.named_parameters()], [name for name, _ in model.named_buffers()]

    def scores(own: list[Tensor], kept: list[Tensor], inputs: Tensor) -> Tensor:
        """Return the scores of one member of the team."""
        state = {**dict(zip(names[0], own, strict=True)), **dict(zip(names[1], kept, strict=True))}
        result: Tensor = functional_call(model, state, (inputs,))
        return result

    found = vmap(scores)(parameters, buffers, x) if buffers else vmap(lambda p, i: scores(p, [], i))(parameters, x)
    # classes before samples: the CPU then vectorises the exponentials, ten times as fast
    return cross_entropy(found.transpose(1, 2), y, reduction="none").mean(dim=1)


def _record(model: nn.Module, parameters: list[Tensor], buffers: list[Tensor], x: Tensor, y: Tensor) -> Step:
    def step(ps: list[Tensor], bs: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the losses of all members and their gradients."""
        leaves = [p.detach().requires_grad_() for p in ps]
        losses = stacked_losses(model, leaves, bs, x, y)
        return losses.detach(), list(torch.autograd.grad(losses.sum(), leaves))

    with torch.enable_grad():  # recorded on copies, because recording runs the step and changes buffers
        graph = make_fx(step)([p.detach().clone() for p in parameters], [b.clone() for b in buffers], x, y)
    tidy(graph)
    graph.graph.set_codegen(fx.graph.CodeGen())  # a flat argument list: nested arguments cost as much as operations
    graph.recompile()
    operations = graph.forward

    def run(ps: list[Tensor], bs: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the same from the recorded operations."""
        with torch.no_grad():
            losses, *gradients = operations(*ps, *bs, x, y)
            return losses, gradients

    return run
