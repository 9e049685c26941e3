"""One training step of several networks of one shape as a flat list of tensor operations.

    step of one network ──vmap──▶ of S networks ──make_fx──▶ graph ──tidy──▶ loss, gradients = graph(...)

``torch.func`` and autograd are gone through once, when the graph is recorded; what is left of a step is the operations
themselves, each on all networks. Not supported: networks that draw random numbers or look at a value of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy

Step = Callable[[list[Tensor], list[Tensor], Tensor, Tensor], tuple[Tensor, list[Tensor]]]

_MOST_KEPT = 64  # graphs; a sweep uses one for every method, shape and number of networks
_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default, _aten.expand.default, _aten.transpose.int, _aten.t.default)
_SAME_WHERE_SHAPES_ARE = (_aten.view.default, _aten._unsafe_view.default, _aten.expand.default, _aten.permute.default)
_FILLED = (_aten.ones.default, _aten.zeros.default, _aten.full.default)
_FILLED_LIKE = (_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default)
_OF_CONSTANTS = (
    *_VIEWS,
    _aten.unsqueeze.default,
    _aten.div.Scalar,
    _aten.div.Tensor,
    _aten.mul.Scalar,
    _aten.clone.default,
)

_kept: dict[tuple[object, ...], Step] = {}


def traced_step(model: nn.Module, parameters: list[Tensor], buffers: list[Tensor], x: Tensor, y: Tensor) -> Step:
    """Return the function that gives losses (S,) and their gradients for S networks like ``model``.

    It takes what is given here and lists of tensors of the same shapes: the parameters and the buffers of S networks,
    each stacked along a first axis, in the order of ``model``'s own; inputs (S, B, ...); classes (S, B). A loss is the
    mean cross-entropy of one network, in nats; buffers that a network changes are changed in place.

    Raises:
        RuntimeError: a network that cannot be recorded.
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
        state = {**dict(zip(names[0], own, strict=True)), **dict(zip(names[1], kept, strict=True))}
        result: Tensor = functional_call(model, state, (inputs,))
        return result

    found = vmap(scores)(parameters, buffers, x) if buffers else vmap(lambda p, i: scores(p, [], i))(parameters, x)
    return cross_entropy(found.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(dim=1)


def _record(model: nn.Module, parameters: list[Tensor], buffers: list[Tensor], x: Tensor, y: Tensor) -> Step:
    def step(ps: list[Tensor], bs: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        leaves = [p.detach().requires_grad_() for p in ps]
        losses = stacked_losses(model, leaves, bs, x, y)
        return losses.detach(), list(torch.autograd.grad(losses.sum(), leaves))

    with torch.enable_grad():  # recorded on copies: recording computes the step, and buffers are changed
        graph = make_fx(step)([p.detach().clone() for p in parameters], [b.clone() for b in buffers], x, y)
    tidy(graph)

    def run(ps: list[Tensor], bs: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            found: tuple[Tensor, list[Tensor]] = graph(ps, bs, x, y)
            return found

    return run


def tidy(module: fx.GraphModule) -> None:
    """Take out of a recorded graph what computes nothing, in place, and let products come out as they are used."""
    for node in list(module.graph.nodes):
        if (same := _unchanged(node)) is not None:
            node.replace_all_uses_with(same)
    _keep_constants(module)
    _multiply_transposed(module.graph)
    _share_views(module.graph)
    module.graph.eliminate_dead_code()
    module.recompile()


def _unchanged(node: fx.Node) -> fx.Node | None:
    """Return the argument that a node returns as it is, or None."""
    if node.target is _aten.detach.default or (node.target is _aten.mul.Scalar and node.args[1] == 1):
        return _first(node)
    if node.target in _SAME_WHERE_SHAPES_ARE:
        first = _first(node)
        own, given = node.meta["val"], first.meta["val"]
        if (own.shape, own.stride()) == (given.shape, given.stride()):
            return first
    return None


def _first(node: fx.Node) -> fx.Node:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def _keep_constants(module: fx.GraphModule) -> None:
    """Compute once what depends on shapes alone."""
    values: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _FILLED_LIKE:
            like = _first(node).meta["val"]
            given = {k: v for k, v in node.kwargs.items() if k not in ("pin_memory", "memory_format")}
            sample = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
            values[node] = node.target(sample, *node.args[1:], **given)
        elif node.target in _FILLED or (node.target in _OF_CONSTANTS and _all_known(node, values)):
            values[node] = node.target(*(values.get(a, a) for a in node.args), **node.kwargs)
    for number, (node, value) in enumerate(values.items()):
        if all(user in values for user in node.users):
            continue
        name = f"constant_{number}"
        module.register_buffer(name, value, persistent=False)
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name), delete_user_cb=lambda user: user not in values)


def _all_known(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    inputs: Sequence[fx.Node] = node.all_input_nodes
    return bool(inputs) and all(one in values for one in inputs)


def _multiply_transposed(graph: fx.Graph) -> None:
    """Compute ``(A B)^T`` as ``B^T A^T``: gradients then lie in memory as their parameters do, which updates faster."""
    for node in _calls(graph, (_aten.transpose.int,)):
        product = _first(node)
        if node.args[1:] == (1, 2) and product.target is _aten.bmm.default and len(product.users) == 1:
            with graph.inserting_before(node):
                factors = tuple(_transposed(graph, factor) for factor in reversed(product.all_input_nodes))
                if len(factors) == 2:
                    node.replace_all_uses_with(graph.call_function(_aten.bmm.default, factors))


def _transposed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    if node.target is _aten.transpose.int and node.args[1:] == (1, 2):
        return _first(node)
    return graph.call_function(_aten.transpose.int, (node, 1, 2))


def _share_views(graph: fx.Graph) -> None:
    """Take a view of a tensor once; a second one is the same memory."""
    seen: dict[tuple[object, ...], fx.Node] = {}
    for node in _calls(graph, _VIEWS):
        key = (node.target, repr(node.args))
        node.replace_all_uses_with(seen.setdefault(key, node)) if key in seen else seen.setdefault(key, node)


def _calls(graph: fx.Graph, targets: tuple[Any, ...]) -> Iterator[fx.Node]:
    return (node for node in list(graph.nodes) if node.op == "call_function" and node.target in targets)
