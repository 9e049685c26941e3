"""Checks of arguments, and reshaping from any number of leading axes to one batch axis and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array

Axes = tuple[str | int, ...]
MODES = ("reverse", "forward")

_FLOATS = ("float16", "bfloat16", "float32", "float64")


class Layout(Protocol):
    """Adapts the arrays of a layer to a map with another layout."""

    def laid_out(self, arrays: Sequence[Array]) -> tuple[list[Array], tuple[Any, ...]]:
        """Return the arrays in the map's layout, and its settings after kappa."""

    def given_back(self, z: Array, batch: int) -> Array:
        """Return the map's output in the layer's layout, after a batch axis of this length."""


class Samples:
    """The arrays of one call, checked, in one type and with one batch axis; ``sizes`` are the lengths of named axes.

    Args:
        name: the function called, for messages.
        inputs: each input with its axes after the batch; an axis is the name of a size, or a length.
        parameters: each parameter with its axes.
        given: sizes that no array determines.
        ranges: the exclusive upper bound of each integer input, which is not checked: values are unknown while JAX
        traces.
        shared: the inputs that all samples share, without leading axes.

    Raises:
        TypeError: for a value that is not an array, or of a wrong type.
        ValueError: for shapes that do not fit.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, tuple[Any, Axes]],
        parameters: Mapping[str, tuple[Any, Axes]],
        given: Mapping[str, int] | None = None,
        ranges: Mapping[str, str | int] | None = None,
        shared: Collection[str] = (),
    ) -> None:
        self._name = name
        self.sizes: dict[str, int] = dict(given or {})
        self._shown: dict[str, str] = {}
        self._lead: tuple[int, ...] | None = None
        self._dtype: Any = None
        for word, (array, axes) in (*inputs.items(), *parameters.items()):
            self._check_type(word, array, word in (ranges or {}))
            self._check_shape(word, array, axes, word in inputs and word not in shared)
        lead = self._lead or ()
        count = math.prod(lead)
        flat = [x if w in shared else x.reshape(count, *x.shape[len(lead) :]) for w, (x, _) in inputs.items()]
        self._arrays = [*flat, *(p for p, _ in parameters.values())]

    def mapped(
        self,
        modes: Mapping[str, Callable[..., Array]],
        mode: str,
        *settings: Any,
        order: Sequence[int] | None = None,
        layout: Layout | None = None,
    ) -> Array:
        """Return the result of a mode's function of the arrays, with the leading axes of the inputs.

        With ``order`` it is a map of the catalogue, which takes the arrays in that order, adapted by ``layout`` if
        given.
        """
        check_mode(self._name, mode)
        arrays = self._arrays if order is None else [self._arrays[k] for k in order]
        if layout is None:
            return self._with_lead(modes[mode](*arrays, *settings))
        arrays, more = layout.laid_out(arrays)
        return self._with_lead(layout.given_back(modes[mode](*arrays, *settings, *more), math.prod(self._lead or ())))

    def measured(self, function: Callable[..., Array], *settings: int) -> Array:
        """Return the result of a function of the arrays, with the leading axes of the inputs."""
        return self._with_lead(function(*self._arrays, *settings))

    def constant(self, value: float, axes: tuple[int, ...] = ()) -> Array:
        """Return a number for every sample, with the leading axes of the inputs and then ``axes``."""
        return jnp.full((*(self._lead or ()), *axes), value, jnp.promote_types(self._dtype, jnp.float32))

    def lengths(self, *names: str) -> tuple[int, ...]:
        """Return the lengths of named axes, and the other sizes given."""
        return tuple(self.sizes[name] for name in names)

    def _with_lead(self, z: Array) -> Array:
        return z.reshape(*(self._lead or ()), *z.shape[1:])

    def _check_type(self, word: str, array: Any, integer: bool) -> None:
        if not hasattr(array, "dtype") or not hasattr(array, "shape"):
            raise TypeError(f"{self._name}: {word} is a {type(array).__name__}; give an array")
        if integer:
            if not jnp.issubdtype(array.dtype, jnp.integer):
                raise TypeError(f"{self._name}: {word} has type {array.dtype}; it must hold integers: use .astype(int)")
            return
        if str(array.dtype) not in _FLOATS:
            raise TypeError(f"{self._name}: {word} has type {array.dtype}; give real floating-point numbers: .astype()")
        if self._dtype not in (None, array.dtype):
            raise TypeError(f"{self._name}: the types differ ({self._dtype}, {array.dtype}); convert with .astype()")
        self._dtype = array.dtype

    def _check_shape(self, word: str, array: Any, axes: Axes, batched: bool) -> None:
        """Read the sizes off an array and compare them with those of earlier arrays."""
        shape, wanted = tuple(array.shape), ", ".join(str(axis) for axis in axes)
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


def check_mode(name: str, mode: object) -> str:
    """Return a mode of differentiation; raise ValueError for an unknown one."""
    if mode not in MODES:
        raise ValueError(f"{name}: mode is {mode!r}; give one of {', '.join(MODES)}")
    return str(mode)


def check_kappa(name: str, kappa: object, above: float) -> float:
    """Return ``kappa`` as a float; TypeError unless it is a number, ValueError unless finite and above the bound."""
    if isinstance(kappa, bool) or not isinstance(kappa, int | float):
        raise TypeError(f"{name}: kappa is a {type(kappa).__name__}; give a number, it is a setting and not an array")
    if not (above < kappa < math.inf):
        raise ValueError(f"{name}: kappa is {kappa}; give a finite number above {above:g}, where the scale is real")
    return float(kappa)


def check_sizes(name: str, least: int = 1, **sizes: object) -> None:
    """Raise TypeError or ValueError unless every size is an integer, at least ``least``."""
    for word, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: {word} is {value!r}; give an integer")
        if value < least:
            raise ValueError(f"{name}: {word} is {value}; give an integer of at least {least}")


def centred(name: str, x: Any) -> Array:
    """Return ``x`` (..., n) minus each row's mean, computed in at least float32; TypeError unless it is an array."""
    if not hasattr(x, "dtype"):
        raise TypeError(f"{name}: x is a {type(x).__name__}; give an array")
    mean = x.mean(-1, keepdims=True, dtype=jnp.promote_types(x.dtype, jnp.float32))
    found: Array = (x - mean).astype(x.dtype)
    return found
