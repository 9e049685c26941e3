"""Which tensors a kernel may read: positive checks of every operand before its address is passed on.

A kernel trusts the addresses and lengths that it gets. So it reads only strided tensors of torch's own class whose
dispatch keys are those of a new tensor. A subclass, a sparse tensor, one without values, one with a pending negation,
and one that ``torch.vmap`` maps over have other keys. If torch does not expose the keys, kernels are reached only
through operators, for which torch checks them. No kernel runs while a mode observes or replaces torch's operations,
such as ``make_fx`` or ``FlopCounterMode``, which would not see it, nor under autocast, which changes the type of a
product.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled, _is_tracing
from torch._C import _len_torch_dispatch_stack as _number_of_modes
from torch._C import _len_torch_function_stack as _number_of_function_modes
from torch.compiler import is_compiling
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

_WITHOUT_VALUES = ("FakeTensor", "FunctionalTensor")  # in torch._subclasses, which is slow to import
PLAIN = (Tensor, torch.nn.Parameter)
keys_of: Any = getattr(torch._C, "_dispatch_keys", None)
_keys_of_thread: Any = getattr(torch._C, "_dispatch_tls_local_include_set", None)
KEYS_ARE_KNOWN = None not in (keys_of, _keys_of_thread)  # otherwise kernels are reached only through operators

Given = ParamSpec("Given")
Result = TypeVar("Result")
Answer = TypeVar("Answer", bound=Callable[..., object])


@functools.cache
def plain_keys(device: str) -> frozenset[int]:
    """Return the dispatch keys of a new tensor on a device type, made outside and inside ``inference_mode``."""
    found = []
    if not KEYS_ARE_KNOWN:
        return frozenset()
    for inference in (False, True):
        with torch.inference_mode(inference):
            found.append(keys_of(torch.empty(0, device=device)).raw_repr())
    return frozenset(found)


def unwatched() -> bool:
    """Return whether no active mode could observe or change torch's operations."""
    if _number_of_modes() or _is_any_autocast_enabled() or _is_tracing():
        return False
    if not _number_of_function_modes():
        return True
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return all(type(mode) is DeviceContext for mode in modes)


def is_eager(*operands: Tensor) -> bool:
    """Return whether all are plain tensors and nothing records operations on them: no compiler, tracer or mode.

    Only then may a map overwrite a temporary with its result. Some recorders lose an in-place operation on the returned
    tensor: compiled by torch 2.11 its gradients are zero, and the tracing ONNX exporter omits it. A tensor that
    consists of several applies the operation once for each, and one that ``torch.vmap`` or ``is_grads_batched`` maps
    over cannot be overwritten by a result with more axes.
    """
    for operand in operands:
        if type(operand) not in PLAIN:
            return False
    return not is_compiling() and KEYS_ARE_KNOWN and _keys_of_thread().raw_repr() in _plain_threads()


@functools.cache
def _plain_threads() -> frozenset[int]:
    """Return the dispatch keys that a new thread adds to those of tensors, outside and inside ``inference_mode``."""
    found = []

    def look() -> None:
        for inference in (False, True):
            with torch.inference_mode(inference):
                found.append(_keys_of_thread().raw_repr())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return frozenset(found)


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor is dense: neither sparse nor nested."""
    return tensor.layout is torch.strided and not tensor.is_nested


def check_dense(name: str, **operands: Tensor | None) -> None:
    """Raise TypeError for a tensor that is nested or not strided."""
    for word, tensor in operands.items():
        if tensor is None or is_dense(tensor):
            continue
        if tensor.is_nested:
            raise TypeError(f"{name}: {word} is a nested tensor; pad it by torch.nested.to_padded_tensor")
        raise TypeError(f"{name}: {word} has the layout {tensor.layout}; convert it with .to_dense()")


def in_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is plain and has its values at an address that its device's kernels can read."""
    if type(tensor) not in PLAIN or tensor.is_meta:
        return False
    return not KEYS_ARE_KNOWN or keys_of(tensor).raw_repr() in plain_keys(tensor.device.type)


def readable(tensors: Iterable[Tensor], shapes: Iterable[Sequence[int]]) -> bool:
    """Return whether kernels can read tensors on one device, of the first one's type and of these shapes."""
    first, *others = tensors
    device, dtype = first.device, first.dtype
    return (
        unwatched()
        and all(t.device == device and t.dtype is dtype for t in others)
        and all(in_memory(t) and t.shape == shape for t, shape in zip((first, *others), shapes, strict=True))
    )


def check_result(result: Tensor, like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return the result of a torch operation for a kernel to read; raise RuntimeError if it is not as expected.

    Expected is a contiguous tensor of ``shape`` on the device of ``like``, of its type or of ``dtype``.
    """
    wanted = like.dtype if dtype is None else dtype
    if type(result) is Tensor and result.dtype is wanted and result.shape == shape and result.is_contiguous():
        return result
    raise RuntimeError(
        f"a matrix product returned a {type(result).__name__} of shape {tuple(result.shape)} and type {result.dtype} "
        f"instead of {tuple(shape)} and {wanted}; something replaces torch's operations: use backend='torch'"
    )


def check_launch(first: Tensor, first_shape: Sequence[int], *others: tuple[Tensor, Sequence[int], torch.dtype]) -> None:
    """Raise ValueError unless the operands of an operator have these shapes and types and are on one device."""
    for tensor, shape, dtype in ((first, first_shape, first.dtype), *others):
        if tensor.device != first.device or tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            raise ValueError(
                f"a kernel got a tensor of shape {tuple(tensor.shape)}, type {tensor.dtype} on {tensor.device}; "
                f"with a first operand of shape {tuple(first.shape)} it takes {tuple(shape)}, {dtype} on {first.device}"
            )


class Unpacked:
    """Autograd's context with its saved tensors, which a checkpoint allows to be read only once."""

    def __init__(self, context: Any, tensors: tuple[Tensor, ...]) -> None:
        self._context, self.saved_tensors = context, tensors

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the context."""
        return getattr(self._context, name)


def is_traced(x: Tensor) -> bool:
    """Return whether a tensor in a compiled graph is plain: itself, or as the fake tensor that stands for it."""
    kind = type(x)
    return kind in PLAIN or (kind.__name__ in _WITHOUT_VALUES and kind.__module__.startswith("torch._subclasses."))


def constant(function: Answer) -> Answer:
    """Let compilers treat a function's result as a constant, like ``torch.compiler.assume_constant_result``.

    That function imports the whole compiler, which takes longer than all other imports of this package.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def outside_autocast(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Return a pass that runs outside autocast, in the types of its tensors.

    Operands are cast for autocast before the pass is called. Autocast around a backward pass alone then changes
    nothing.
    """

    @functools.wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        if not _is_any_autocast_enabled() or is_compiling():
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return run
