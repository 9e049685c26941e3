"""Which tensors a kernel may read: positive checks of every operand, made before an address is taken.

A kernel gets addresses and lengths, so what it is told must be so. It reads strided tensors of torch's own class whose
dispatch keys are those of a newly made tensor; where torch does not tell them, operators alone reach a kernel, for
torch itself then looks at the keys. A subclass, a sparse tensor, one without values, one with a pending
negation and one that ``torch.vmap`` maps over have other keys. No kernel runs where a mode watches or replaces torch's
operations, such as ``make_fx`` or ``FlopCounterMode``, which would not see it, or under autocast, which changes the
type of a product.
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

_WITHOUT_VALUES = ("FakeTensor", "FunctionalTensor")  # of torch._subclasses, which takes long to import
PLAIN = (Tensor, torch.nn.Parameter)
keys_of: Any = getattr(torch._C, "_dispatch_keys", None)
_keys_of_thread: Any = getattr(torch._C, "_dispatch_tls_local_include_set", None)
KEYS_ARE_KNOWN = None not in (keys_of, _keys_of_thread)  # else kernels are reached by operators alone

Given = ParamSpec("Given")
Result = TypeVar("Result")
Answer = TypeVar("Answer", bound=Callable[..., object])


@functools.cache
def plain_keys(device: str) -> frozenset[int]:
    """Return the dispatch keys of a new tensor on a kind of device, made outside and inside ``inference_mode``."""
    found = []
    if not KEYS_ARE_KNOWN:
        return frozenset()
    for inference in (False, True):
        with torch.inference_mode(inference):
            found.append(keys_of(torch.empty(0, device=device)).raw_repr())
    return frozenset(found)


def unwatched() -> bool:
    """Return whether torch's operations do what they are called for: nothing active could see or change them."""
    if _number_of_modes() or _is_any_autocast_enabled() or _is_tracing():
        return False
    if not _number_of_function_modes():
        return True
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return all(type(mode) is DeviceContext for mode in modes)


def is_eager(*operands: Tensor) -> bool:
    """Return whether all are plain tensors and nothing records what is done with them: no compiler, tracer or mode.

    Only then does a map write its result over a temporary. Some recorders lose an in-place operation on what is
    returned: compiled by torch 2.11 its gradients are zero, and the ONNX exporter that traces leaves it out. A tensor
    that consists of several applies it once for each, and one that ``torch.vmap`` or ``is_grads_batched`` maps over
    may not take what has more axes than it.
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
    """Return whether a tensor has one number at every place: it is not sparse and not nested."""
    return tensor.layout is torch.strided and not tensor.is_nested


def check_dense(name: str, **operands: Tensor | None) -> None:
    """Raise TypeError for a tensor that is sparse, nested or in another layout than torch's own."""
    for word, tensor in operands.items():
        if tensor is None or is_dense(tensor):
            continue
        if tensor.is_nested:
            raise TypeError(f"{name}: {word} is a nested tensor; pad it by torch.nested.to_padded_tensor")
        raise TypeError(f"{name}: {word} has the layout {tensor.layout}; convert it with .to_dense()")


def in_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is a plain one with values at an address that a kernel of its device can read."""
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
    """Return what an operation of torch gave, for a kernel to read; raise RuntimeError if it is not what was asked for.

    Asked for is a tensor without gaps on the device of ``like`` and of its type, or of ``dtype``.
    """
    wanted = like.dtype if dtype is None else dtype
    if type(result) is Tensor and result.dtype is wanted and result.shape == shape and result.is_contiguous():
        return result
    raise RuntimeError(
        f"a product of matrices gave a {type(result).__name__} of shape {tuple(result.shape)} and type {result.dtype} "
        f"where {tuple(shape)} and {wanted} were asked for; something replaces torch's operations: use backend='torch'"
    )


def check_launch(first: Tensor, first_shape: Sequence[int], *others: tuple[Tensor, Sequence[int], torch.dtype]) -> None:
    """Raise ValueError unless the operands of an operator have these shapes and types and are on one device."""
    for tensor, shape, dtype in ((first, first_shape, first.dtype), *others):
        if tensor.device != first.device or tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            raise ValueError(
                f"a kernel was given a tensor of shape {tuple(tensor.shape)}, type {tensor.dtype} on {tensor.device}; "
                f"with a first operand of shape {tuple(first.shape)} it takes {tuple(shape)}, {dtype} on {first.device}"
            )


class Unpacked:
    """Autograd's context with the tensors that it kept, which a checkpoint gives once only."""

    def __init__(self, context: Any, tensors: tuple[Tensor, ...]) -> None:
        self._context, self.saved_tensors = context, tensors

    def __getattr__(self, name: str) -> Any:
        """Return what the context holds."""
        return getattr(self._context, name)


def is_traced(x: Tensor) -> bool:
    """Return whether a tensor in a graph that is compiled is a plain one: as such, or without values as in a step."""
    kind = type(x)
    return kind in PLAIN or (kind.__name__ in _WITHOUT_VALUES and kind.__module__.startswith("torch._subclasses."))


def constant(function: Answer) -> Answer:
    """Let compilers take what a function returns as a constant, as ``torch.compiler.assume_constant_result`` does.

    That one imports the whole compiler, which takes longer than all else that this package imports.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def outside_autocast(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a pass compute in the types of its tensors.

    What autocast asks of a forward pass is done before the pass is called, and is in the types already. Around a
    backward pass alone, autocast then changes nothing.
    """

    @functools.wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        if not _is_any_autocast_enabled() or is_compiling():
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return run
