"""Checks of arguments; every message names the value, the cause and the fix."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor, is_autocast_enabled

from .operands import check_dense, constant
from .rows import check_range

INITS = ("variance-preserving", "torch")
_STRIDED = torch.strided
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_kappa(name: str, kappa: object, above: float, dtype: torch.dtype | None = None, room: float = 1.0) -> float:
    """Return ``kappa`` as a float; TypeError unless it is a number, ValueError unless it is finite and above the bound.

    With the input's ``dtype``, also ValueError for a kappa that this type cannot distinguish from the bound, or whose
    root, which scales every sample, is out of its range; ``room`` is a safety factor for the root.
    """
    if type(kappa) is float and above + 2e-7 < kappa < 4e9 / room**2:  # the usual case, valid in every type
        return kappa
    if isinstance(kappa, bool) or not isinstance(kappa, int | float):
        raise TypeError(f"{name}: kappa is a {type(kappa).__name__}; give a number, it is a setting and not a tensor")
    if not (above < kappa < math.inf):
        raise ValueError(f"{name}: kappa is {kappa}; give a finite number above {above:g}, where the scale is real")
    if isinstance(dtype, torch.dtype):
        check_range(name, float(kappa), above, dtype, room)
    return float(kappa)


def check_init(name: str, init: object) -> str:
    """Return the name of an initialisation; raise ValueError for an unknown one."""
    if not isinstance(init, str) or init not in INITS:
        raise ValueError(f"{name}: init is {init!r}; choose one of {', '.join(map(repr, INITS))}")
    return init


def check_features(name: str, **features: object) -> None:
    """Raise TypeError or ValueError unless every number of features is a positive integer."""
    for word, value in features.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: {word} is {value!r}; give a positive integer")
        if value < 1:
            raise ValueError(f"{name}: {word} is {value}; give a positive integer")


def check_operands(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands in one floating-point type, under autocast in autocast's.

    Shapes: x (..., n), weight (m, n), bias (m) or None. Raises TypeError for operands that are not floating-point
    tensors of one type, ValueError for a shape that does not fit.
    """
    if not (  # the usual case, in few steps: no conversion of types
        isinstance(x, Tensor)
        and isinstance(weight, Tensor)
        and (dtype := x.dtype) in _FLOATS
        and weight.dtype is dtype
        and (bias is None or (isinstance(bias, Tensor) and bias.dtype is dtype and bias.layout is _STRIDED))
        and x.layout is _STRIDED
        and weight.layout is _STRIDED
        and (x.is_cpu or x.is_cuda)
        and not is_autocast_enabled("cpu" if x.is_cpu else "cuda")  # faster than reading its device
    ):
        x, weight, bias = as_one_type(name, x, weight, bias)
    try:
        shape, given = weight.shape, x.shape
        fits = len(shape) == 2 and given[-1:] == shape[1:] and (bias is None or bias.shape == shape[:1])
    except RuntimeError:  # nested tensors have no shape
        check_dense(name, x=x, weight=weight, bias=bias)
        raise
    if not fits:
        _refuse_shapes(name, x, weight, bias)
    return x, weight, bias


def _refuse_shapes(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> NoReturn:
    if weight.dim() != 2:
        raise ValueError(f"{name}: weight has shape {_shape(weight)}; give a matrix (out_features, in_features)")
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"{name}: x has shape {_shape(x)} but weight {_shape(weight)} takes {weight.shape[1]} features; "
            "the last axis of x must have that length"
        )
    assert bias is not None
    raise ValueError(f"{name}: bias has shape {_shape(bias)}; weight gives {weight.shape[0]} features: use that")


def as_one_type(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands in one floating-point type, under autocast in autocast's.

    Raises TypeError for operands that are not floating-point tensors of one type.
    """
    named = [("x", x), ("weight", weight), ("bias", bias)]
    for word, tensor in named:
        if tensor is not None:
            _check_floating(name, word, tensor)
    device = x.device.type
    if _has_autocast(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return _cast(x, dtype), _cast(weight, dtype), None if bias is None else _cast(bias, dtype)
    types = {tensor.dtype for _, tensor in named if tensor is not None}
    if len(types) > 1:
        listed = ", ".join(f"{word} {tensor.dtype}" for word, tensor in named if tensor is not None)
        raise TypeError(f"{name}: the types differ ({listed}); convert with .to(), or use torch.autocast")
    return x, weight, bias


@constant
def _has_autocast(device: str) -> bool:
    """Return whether a device type has autocast; torch's own function breaks graphs compiled by torch up to 2.11."""
    return torch.amp.is_autocast_available(device)


def _check_floating(name: str, word: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: {word} is a {type(tensor).__name__}; give a tensor")
    if tensor.dtype not in _FLOATS:
        raise TypeError(f"{name}: {word} has type {tensor.dtype}; convert it to a real floating-point type: .float()")
    if tensor.layout is not _STRIDED or tensor.is_nested:
        check_dense(name, **{word: tensor})


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in a type; autocast does not change float64, as in ``torch.nn.functional.linear``."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
