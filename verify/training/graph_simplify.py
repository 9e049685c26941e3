"""Simplify a recorded graph of tensor operations: the same results with fewer and cheaper operations.

    identity operations are removed                 results that depend only on shapes are computed once
    (A B)^T becomes B^T A^T                         (A^T)^T becomes A
    b + A B becomes one operation                   a sum drops an axis that a view would remove later

In the stacks of small networks recorded here, launching an operation costs a third as much as computing it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

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


def tidy(module: fx.GraphModule) -> None:
    """Simplify the graph of a module in place; recompile the module afterwards.

    Every node must know the shape of its result (``meta["val"]``), as the nodes that ``make_fx`` records do.
    """
    for node in list(module.graph.nodes):
        if (same := _unchanged(node)) is not None:
            node.replace_all_uses_with(same)
    _keep_constants(module)
    module.graph.eliminate_dead_code()  # unused nodes would count as uses of a product below
    _multiply_transposed(module.graph)
    _add_products(module.graph)
    _sum_away(module.graph)
    _share_views(module.graph)
    module.graph.eliminate_dead_code()


def _unchanged(node: fx.Node) -> fx.Node | None:
    """Return the argument that a node returns unchanged, or None."""
    if node.target is _aten.detach.default or (node.target is _aten.mul.Scalar and node.args[1] == 1):
        return _first(node)
    if node.target is _aten.transpose.int and _first(node).target is node.target and _axes(node) == _axes(_first(node)):
        return _first(_first(node))
    if node.target in _SAME_WHERE_SHAPES_ARE:
        first = _first(node)
        own, given = node.meta["val"], first.meta["val"]
        if (own.shape, own.stride()) == (given.shape, given.stride()):
            return first
    return None


def _axes(node: fx.Node) -> set[Any]:
    return set(node.args[1:])


def _first(node: fx.Node) -> fx.Node:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def _keep_constants(module: fx.GraphModule) -> None:
    """Compute results that depend only on shapes once, in advance."""
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
    """Compute ``(A B)^T`` as ``B^T A^T``: gradients then have their parameters' memory layout, for faster updates."""
    for node in _calls(graph, (_aten.transpose.int,)):
        product = _first(node)
        if _axes(node) == {1, 2} and _is_lone_product(product):
            with graph.inserting_before(node):
                factors = tuple(_transposed(graph, factor) for factor in reversed(_factors(product)))
            _replace(graph, node, _aten.bmm.default, factors)


def _add_products(graph: fx.Graph) -> None:
    """Compute ``b + A B`` in one operation if ``b`` is one row per product."""
    for node in _calls(graph, (_aten.add.Tensor,)):
        row, product = node.args
        if not (isinstance(row, fx.Node) and isinstance(product, fx.Node) and _is_lone_product(product)):
            continue
        if _shape(row) == [_shape(product)[0], 1, _shape(product)[2]]:
            _replace(graph, node, _aten.baddbmm.default, (row, *_factors(product)))


def _sum_away(graph: fx.Graph) -> None:
    """Replace a sum that keeps an axis, and the view that removes the axis, by a sum that drops it."""
    for node in _calls(graph, (_aten.view.default,)):
        total = _first(node)
        if total.target is _aten.sum.dim_IntList and total.args[2:] == (True,) and len(total.users) == 1:
            axes: Any = total.args[1]
            if [n for axis, n in enumerate(_shape(total)) if axis not in axes] == _shape(node):
                _replace(graph, node, total.target, (_first(total), axes))


def _replace(graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    """Replace a node by another operation whose result has the same shape."""
    with graph.inserting_before(node):
        new = graph.call_function(target, args)
    new.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _is_lone_product(node: fx.Node) -> bool:
    return node.target is _aten.bmm.default and len(node.users) == 1


def _factors(product: fx.Node) -> tuple[fx.Node, fx.Node]:
    first, second = product.args
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    return first, second


def _shape(node: fx.Node) -> list[int]:
    return list(node.meta["val"].shape)


def _transposed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    if node.target is _aten.transpose.int and _axes(node) == {1, 2}:
        return _first(node)
    return graph.call_function(_aten.transpose.int, (node, 1, 2))


def _share_views(graph: fx.Graph) -> None:
    """Merge equal views of a tensor."""
    seen: dict[tuple[object, ...], fx.Node] = {}
    for node in _calls(graph, _VIEWS):
        key = (node.target, repr(node.args))
        node.replace_all_uses_with(seen.setdefault(key, node)) if key in seen else seen.setdefault(key, node)


def _calls(graph: fx.Graph, targets: tuple[Any, ...]) -> Iterator[fx.Node]:
    return (node for node in list(graph.nodes) if node.op == "call_function" and node.target in targets)
