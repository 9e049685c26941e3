"""Find the first number that is not finite: in the batch, in a parameter, in the forward or in the backward pass.

An infinite number may be intended, as in a mask. So every non-finite tensor is tracked from the operation that produced
it from finite inputs; only one that reaches the loss or a gradient is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from verify.diagnosis.findings.finding import Finding
from verify.diagnosis.sums import all_finite


@dataclass(frozen=True)
class _Origin:
    """The operation that produced a non-finite number, where it ran, and the first sample that has one."""

    operation: str
    layer: str
    index: int | None
    dtype: str
    largest_read: float


class _Following(TorchDispatchMode):
    """Tracks non-finite tensors, by their storage, from the operation that produced them."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.origins: dict[int, _Origin] = {}
        self._kept: list[Tensor] = []  # keeps storages alive, since a freed address could be reused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then record the origin of its outputs."""
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        known = next((self.origins[_place(t)] for t in given if _place(t) in self.origins), None)
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and is_bad(made):
                origin = known or _Origin(
                    func.overloadpacket.__name__, self.running[-1] if self.running else "", first_bad(made),
                    str(made.dtype).removeprefix("torch."), _largest(given),
                )  # fmt: skip
                self.origins.setdefault(_place(made), origin)
                self._kept.append(made)
        return result

    def of(self, tensor: Tensor) -> _Origin | None:
        """Return the origin of a tensor's non-finite numbers, None if unknown."""
        return self.origins.get(_place(tensor))


def _place(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):
        return id(tensor)


def _largest(tensors: list[Tensor]) -> float:
    sizes = [float(t.detach().abs().max()) for t in tensors if t.is_floating_point() and t.numel() and t.numel() < 1e8]
    return max(sizes, default=0.0)


def is_bad(tensor: Tensor) -> bool:
    """Whether a floating-point tensor contains NaN or infinity."""
    return tensor.is_floating_point() and tensor.device.type != "meta" and not all_finite(tensor)


def first_bad(tensor: Tensor) -> int | None:
    """Return the first index of the first axis with a non-finite number; None for a scalar."""
    if tensor.dim() == 0:
        return None
    bad = ~tensor.detach().isfinite().reshape(len(tensor), -1).all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def _count() -> int:
    """Return the number of autograd nodes that this thread has created so far."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


@contextmanager
def _layers_that_run(model: nn.Module, running: list[str], ranges: dict[str, list[tuple[int, int]]]) -> Iterator[None]:
    """Track the names of the running modules, and for each call the range of its autograd node numbers."""
    handles = []
    for name, module in model.named_modules():

        def _enter(_: nn.Module, __: Any, name: str = name) -> None:
            running.append(name)
            ranges.setdefault(name, []).append((_count(), -1))

        def _leave(_: nn.Module, __: Any, ___: Any, name: str = name) -> None:
            running.pop()
            ranges[name].append((ranges[name].pop()[0], _count()))

        handles += [module.register_forward_pre_hook(_enter), module.register_forward_hook(_leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def located(model: nn.Module, batch: Mapping[str, Tensor], pass_: Callable[[], Tensor]) -> list[Finding]:
    """Return the origin of the first non-finite numbers, as at most one finding.

    Args:
        model: the model.
        batch: the tensors of the batch by name.
        pass_: runs the model and returns the loss.
    """
    bad = next(((name, tensor) for name, tensor in batch.items() if is_bad(tensor)), None)
    if bad is not None:
        return [_of_input(*bad)]
    parameter = next(((name, p) for name, p in model.named_parameters() if is_bad(p)), None)
    if parameter is not None:
        return [_of_parameter(*parameter)]
    following, ranges = _Following(), dict[str, list[tuple[int, int]]]()
    with _layers_that_run(model, following.running, ranges), following:
        loss = pass_()
    if is_bad(loss):
        return [_of_forward(following.of(loss), loss)]
    return _of_backward(loss, ranges)


def _of_input(name: str, tensor: Tensor) -> Finding:
    lost = ~tensor.isfinite()
    columns = lost.reshape(-1, tensor.shape[-1]).any(0).nonzero().flatten().tolist() if tensor.dim() > 1 else []
    by_column = 0 < len(columns) <= tensor.shape[-1] / 2
    rows = lost.reshape(len(tensor), -1).any(1).nonzero().flatten().tolist() if tensor.dim() else []
    found = columns if by_column else rows
    what = "features" if by_column else "samples"
    return Finding(
        kind="non-finite-input",
        layer=None,
        index=found[0] if len(found) == 1 else found or None,
        evidence={"numbers": int(lost.sum()), "of": tensor.numel(), "tensor": name, "index counts": what},
        threshold=0,
        cause=f"{name} holds NaN or infinity: {int(lost.sum())} of {tensor.numel()} numbers",
        fix="clean the data: look for a feature divided by a range or deviation of 0, a missing value, a logarithm of "
        "0",
    )


def _of_parameter(name: str, parameter: Tensor) -> Finding:
    count = int((~parameter.detach().isfinite()).sum())
    return Finding(
        kind="non-finite-parameter",
        layer=name.rpartition(".")[0],
        index=first_bad(parameter),
        evidence={"numbers": count, "of": parameter.numel(), "parameter": name},
        threshold=0,
        cause=f"the parameter {name!r} holds NaN or infinity: an earlier step made it so",
        fix="start from finite weights, and diagnose the model there: from here every step only spreads the damage",
    )


def _of_forward(origin: _Origin | None, loss: Tensor) -> Finding:
    if origin is None:
        return Finding(
            "non-finite-forward", None, None, {"loss": float(loss.detach())}, None,
            "the loss is not finite, but no torch operation was seen to make it so",
            "check the part of the loss that is computed outside torch's operations",
        )  # fmt: skip
    largest = torch.finfo(getattr(torch, origin.dtype)).max
    half = origin.dtype in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
    where = f"in {origin.layer}" if origin.layer else "outside every layer, in the loss or the model's own forward"
    cause = f"the operation {origin.operation} produces the first number that is not finite, {where}"
    fix = "keep its operands in range: no logarithm of 0, no division by 0, no difference of infinite numbers"
    if half:
        cause += f": {origin.dtype} overflows above {largest:g}"
        fix = "compute this layer in bfloat16 or float32, or make its input smaller (a norm before it, smaller weights)"
    return Finding(
        kind="non-finite-forward",
        layer=origin.layer or None,
        index=origin.index,
        evidence={
            "largest number read": origin.largest_read,
            "operation": origin.operation,
            "dtype": origin.dtype,
            "loss": float(loss.detach()),
        },
        threshold=largest,
        cause=cause,
        fix=fix,
    )


def _of_backward(loss: Tensor, ranges: Mapping[str, list[tuple[int, int]]]) -> list[Finding]:
    """Run the backward pass with a hook on every node; report the first that makes a bad gradient from finite ones."""
    met: list[tuple[str, int, int | None]] = []
    for node in _nodes(loss):

        def _after(inputs: Any, outputs: Any, node: Any = node) -> None:
            bad = [t for t in inputs if isinstance(t, Tensor) and is_bad(t)]
            if not met and bad and not any(isinstance(t, Tensor) and is_bad(t) for t in outputs):
                met.append((node.name(), node._sequence_nr(), first_bad(bad[0])))

        node.register_hook(_after)
    loss.backward()
    if not met:
        return []
    operation, number, index = met[0]
    inside = [name for name, runs in ranges.items() if any(start <= number < end for start, end in runs)]
    layer = max(inside, key=len, default=None)
    where = f"in {layer}" if layer else "in the loss or the model's own forward"
    return [
        Finding(
            kind="non-finite-gradient",
            layer=layer,
            index=index,
            evidence={"operation": operation, "loss": float(loss.detach())},
            threshold=None,
            cause=f"the loss is finite; {operation} produces the first gradient that is not, {where}",
            fix="avoid points with an infinite derivative: add a small number under a root or to a denominator, and "
            "mask before the operation, not after it",
        )
    ]


def _nodes(loss: Tensor) -> list[Any]:
    waiting, seen = [loss.grad_fn], dict[int, Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and id(node) not in seen:
            seen[id(node)] = node
            waiting += [following for following, _ in node.next_functions]
    return list(seen.values())
