"""Restore a model, and everything reachable from it, after a diagnosis."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from verify.diagnosis.snapshot import Snapshot


@contextmanager
def untouched(*roots: Any, but: Sequence[Any] = (), aside: Iterable[Tensor] = ()) -> Iterator[Snapshot]:
    """Restore everything reachable from the roots, and all random generators, on exit, also after an error.

    Inside, steps may be taken on the real parameters, so that everything else that refers to them (a loss that
    penalises them, a list, a compiled graph, a sharding wrapper) sees the step. A keyboard interrupt waits for the
    restoration. ``but`` is left out, for example parameters if no step is taken. Parameters in ``aside`` have no
    gradients inside; gradients that nothing else refers to are moved aside without a copy. Yields the recorded state.
    """
    alone = {parameter: parameter.grad for parameter in aside if _holds_alone(parameter)}
    state, randomness = None, Randomness()
    try:
        for parameter in alone:
            parameter.grad = None
        state = Snapshot(*roots, but=but)
        yield state
    finally:
        with _uninterrupted():
            try:
                _gather_no_longer(roots)
            finally:
                randomness.restore()
                try:
                    if state is not None:
                        state.restore()
                finally:
                    for parameter, gradient in alone.items():
                        parameter.grad = gradient


def _holds_alone(parameter: Tensor) -> bool:
    """Whether only the parameter refers to its gradient's numbers: no variable, no view, no buffer of a wrapper."""
    gradient = parameter.grad if parameter.is_leaf else None
    if type(gradient) is not Tensor or gradient.layout != torch.strided or vars(gradient):
        return False
    del gradient
    return _holders(parameter) == _one_holder()


def _holders(parameter: Tensor) -> tuple[int, ...]:
    """Return the numbers of references to a parameter's gradient and to its storage, in Python and in C++."""
    gradient: Any = parameter.grad
    storage = gradient.untyped_storage()
    below = gradient._use_count(), torch._C._storage_Use_Count(storage._cdata)
    return sys.getrefcount(gradient), sys.getrefcount(storage), *below


@cache
def _one_holder() -> tuple[int, ...]:
    """Return these counts for a gradient to which only its parameter refers."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return _holders(parameter)


class Randomness:
    """The states of Python's, NumPy's and torch's random generators, taken at construction."""

    def __init__(self) -> None:
        numpy = sys.modules.get("numpy")
        self._python, self._cpu = random.getstate(), torch.get_rng_state()
        self._numpy: Any = numpy.random.get_state() if numpy else None
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda: list[Tensor] = torch.cuda.get_rng_state_all() if cuda else []

    def same(self) -> bool:
        """Whether the generators are in the recorded states, so nothing was drawn since."""
        now = Randomness()
        tensors = zip([self._cpu, *self._cuda], [now._cpu, *now._cuda], strict=False)
        return self._python == now._python and self._same_numpy(now) and all(a.equal(b) for a, b in tensors)

    def _same_numpy(self, now: Randomness) -> bool:
        if not isinstance(self._numpy, tuple):  # the state of a generator other than NumPy's default
            return str(self._numpy) == str(now._numpy)
        pairs = zip(self._numpy, now._numpy, strict=True)
        return all(a.tobytes() == b.tobytes() if hasattr(a, "tobytes") else a == b for a, b in pairs)

    def restore(self) -> None:
        """Restore the generators."""
        random.setstate(self._python)
        torch.set_rng_state(self._cpu)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


def _modules(roots: tuple[Any, ...]) -> Iterator[nn.Module]:
    for root in roots:
        if isinstance(root, nn.Module):
            yield from root.modules()


def _gather_no_longer(roots: tuple[Any, ...]) -> None:
    """Reshard the parameters of FSDP2 that an interrupted pass left gathered."""
    for module in _modules(roots):
        reshard: Any = getattr(module, "reshard", None)
        if callable(reshard):
            reshard()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay a keyboard interrupt until the end of the context."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])
