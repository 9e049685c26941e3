"""Checks of arguments, and reshaping from any number of leading axes to one batch axis and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C import _is_tracing

from .backends import Pair, chosen, chosen_for_rows
from .operands import check_dense, constant
from .rows import apply, check_range

Axes = tuple[str | int, ...]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Layout(Protocol):
    """Adapts the tensors of a layer to a map with another layout."""

    def laid_out(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], tuple[Any, ...]]:
        """Return the tensors in the map's layout, and its settings after kappa."""

    def given_back(self, z: Tensor, batch: int) -> Tensor:
        """Return the map's output in the layer's layout, after a batch axis of this length."""


class Samples:
    """The tensors of one call, checked, in one type and with one batch axis; ``sizes`` are the lengths of named axes.

    Args:
        name: the function called, for messages.
        inputs: each input with its axes after the batch; an axis is the name of a size, or a length.
        parameters: each parameter with its axes.
        given: sizes that no tensor determines.
        ranges: the exclusive upper bound of each integer input.
        shared: the inputs that all samples share, without leading axes.

    Raises:
        TypeError: for a value that is not a tensor, or of a wrong type.
        ValueError: for shapes or integers that do not fit.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, tuple[Tensor, Axes]],
        parameters: Mapping[str, tuple[Tensor, Axes]],
        given: Mapping[str, int] | None = None,
        ranges: Mapping[str, str | int] | None = None,
        shared: Collection[str] = (),
    ) -> None:
        self._name = name
        self.sizes: dict[str, int] = dict(given or {})
        self._shown: dict[str, str] = {}
        self._lead: tuple[int, ...] | None = None
        for word, (tensor, axes) in (*inputs.items(), *parameters.items()):
            self._check_tensor(word, tensor, word in (ranges or {}))
            self._check_shape(word, tensor, axes, word in inputs and word not in shared)
        for word, below in (ranges or {}).items():
            self._check_range(word, inputs[word][0], self.sizes[below] if isinstance(below, str) else below)
        lead = self._lead or ()
        count = math.prod(lead)
        flat = [x if w in shared else x.reshape(count, *x.shape[len(lead) :]) for w, (x, _) in inputs.items()]
        self._tensors = self._in_one_type([*flat, *(p for p, _ in parameters.values())])

    def mapped(
        self,
        home: str,
        own: Pair,
        backend: str | None,
        *settings: Any,
        order: Sequence[int] | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Return the first result of a generated function with the leading axes of the inputs.

        ``own`` is torch's function and its form for compilers, ``home`` its file and class; ``backend`` names another
        backend, or is None. With ``order`` it is a map of the catalogue, which takes the tensors in that order, input
        and weight first, in their own type, and adapted by ``layout`` if given; any other map computes 16-bit numbers
        in float32.
        """
        if order is None:
            tensors = [t.to(_wide(t)) if t.is_floating_point() else t for t in self._tensors]
            like = next(t for t in tensors if t.is_floating_point())
            pair = chosen_for_rows(self._name, backend, home, own, like)
        else:
            tensors = [self._tensors[k] for k in order]
            if layout is not None:
                tensors, more = layout.laid_out(tensors)
                settings = (*settings, *more)
            like = tensors[0]
            pair = chosen(self._name, backend, home, own, like, tensors[1])
        device = like.device.type
        if _has_autocast(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                z = apply(*pair, *tensors, *settings)
        else:
            z = apply(*pair, *tensors, *settings)
        z = z if layout is None else layout.given_back(z, self._tensors[0].shape[0])
        return z.reshape(*(self._lead or ()), *z.shape[1:]).to(self.dtype)

    def constant(self, value: float, axes: Sequence[int] = ()) -> Tensor:
        """Return a number for every sample, with the leading axes of the inputs and then ``axes``."""
        like = next(t for t in self._tensors if t.is_floating_point())
        return like.new_full((*(self._lead or ()), *axes), value, dtype=_wide(like))

    def measured(self, function: Callable[..., Tensor], *settings: int) -> Tensor:
        """Return the result of a function of the tensors, in at least float32, with the leading axes of the inputs."""
        tensors = [t.to(_wide(t)) if t.is_floating_point() else t for t in self._tensors]
        found = function(*tensors, *settings)
        dtype = _wide(next(t for t in tensors if t.is_floating_point()))
        return found.reshape(*(self._lead or ()), *found.shape[1:]).to(dtype)

    def lengths(self, *names: str) -> tuple[int, ...]:
        """Return the lengths of named axes, and the other sizes given."""
        return tuple(self.sizes[name] for name in names)

    def _check_tensor(self, word: str, tensor: object, integer: bool) -> None:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{self._name}: {word} is a {type(tensor).__name__}; give a tensor")
        if integer and tensor.dtype not in _INTEGERS:
            raise TypeError(
                f"{self._name}: {word} has type {tensor.dtype}; it must hold integers: convert it with .long()"
            )
        if not integer and tensor.dtype not in _FLOATS:
            raise TypeError(
                f"{self._name}: {word} has type {tensor.dtype}; convert it to a real floating-point type: .float()"
            )
        check_dense(self._name, **{word: tensor})

    def _check_shape(self, word: str, tensor: Tensor, axes: Axes, batched: bool) -> None:
        """Read the sizes off a tensor and compare them with those of earlier tensors."""
        shape, wanted = tuple(tensor.shape), ", ".join(str(axis) for axis in axes)
        wanted = f"(..., {wanted})" if batched and axes else f"({wanted})"
        lead = shape[: len(shape) - len(axes)]
        if len(shape) < len(axes) or (lead and not batched):
            raise ValueError(f"{self._name}: {word} has shape {shape}; give it the axes {wanted}")
        for axis, length in zip(axes, shape[len(lead) :], strict=True):
            known = self.sizes.setdefault(axis, length) if isinstance(axis, str) else axis
            if known != length:
                origin = self._shown.get(str(axis), "the size given")
                raise ValueError(
                    f"{self._name}: {word} has shape {shape}, but {axis} is {known} by {origin}; "
                    f"give {word} the axes {wanted}"
                )
            self._shown.setdefault(str(axis), f"the shape of {word}")
        if batched and self._lead not in (None, lead):
            raise ValueError(
                f"{self._name}: {word} has the leading axes {lead}, the input before it {self._lead}; "
                "give all inputs the same samples"
            )
        self._lead = lead if batched else self._lead

    def _check_range(self, word: str, tensor: Tensor, below: int) -> None:
        """Check the range of integers if that costs nothing: on the CPU, and while nothing records operations."""
        recorded = torch.compiler.is_compiling() or _is_tracing()
        if recorded or tensor.device.type != "cpu" or not tensor.numel():
            return
        try:
            low, high = int(tensor.min()), int(tensor.max())
        except RuntimeError:
            return
        if low < 0 or high >= below:
            wrong = low if low < 0 else high
            raise ValueError(f"{self._name}: {word} holds {wrong}; give integers from 0 to {below - 1}")

    def _in_one_type(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the tensors in the type of computation; results are returned in the type of the tensors."""
        real = [t for t in tensors if t.is_floating_point()]
        device = real[-1].device.type
        if _has_autocast(device) and torch.is_autocast_enabled(device):
            narrow = torch.get_autocast_dtype(device)
            tensors = [t.to(narrow) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]
            real = [t for t in tensors if t.is_floating_point()]
        types = {t.dtype for t in real}
        if len(types) > 1:
            listed = ", ".join(sorted(str(t) for t in types))
            raise TypeError(f"{self._name}: the types differ ({listed}); convert with .to(), or use torch.autocast")
        self.dtype = real[0].dtype
        return [t if t.is_floating_point() else t.long() for t in tensors]


@constant
def _has_autocast(device: str) -> bool:
    """Return whether a device type has autocast; torch's own function breaks graphs compiled by torch up to 2.11."""
    return torch.amp.is_autocast_available(device)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def check_kappa(name: str, kappa: object, above: float, dtype: torch.dtype | None = None) -> float:
    """Return ``kappa`` as a float; TypeError unless it is a number, ValueError unless it is finite and above the bound.

    With the input's ``dtype``, also ValueError for a kappa that this type cannot distinguish from the bound, or whose
    root, which scales every sample, is out of its range.
    """
    if isinstance(kappa, bool) or not isinstance(kappa, int | float):
        raise TypeError(f"{name}: kappa is a {type(kappa).__name__}; give a number, it is a setting and not a tensor")
    if not (above < kappa < math.inf):
        raise ValueError(f"{name}: kappa is {kappa}; give a finite number above {above:g}, where the scale is real")
    if dtype is not None:
        check_range(name, float(kappa), above, dtype)
    return float(kappa)


def check_sizes(name: str, least: int = 1, **sizes: object) -> None:
    """Raise TypeError or ValueError unless every size is an integer, at least ``least``."""
    for word, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: {word} is {value!r}; give an integer")
        if value < least:
            raise ValueError(f"{name}: {word} is {value}; give an integer of at least {least}")
