"""Leave a model, and all that it reaches, as they were before: nothing of a diagnosis may stay behind."""

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
    """Restore everything that the roots reach, and every source of randomness, on the way out, also after an error.

    Steps may be taken on the real parameters inside: whoever else holds them (a loss that penalises them, a list, a
    compiled graph, a wrapper that spreads them over processes) sees the step. An interrupt waits for the restoration.
    What is in ``but`` is left out: parameters, for example, where no step is taken. Parameters in ``aside`` have no
    gradients inside: those that nobody else can reach are laid aside, which takes no copy. Yields the state that is
    restored.
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
    """Whether nothing but a parameter leads to its gradient's numbers: no name, no view, no buffer of a wrapper."""
    gradient = parameter.grad if parameter.is_leaf else None
    if type(gradient) is not Tensor or gradient.layout != torch.strided or vars(gradient):
        return False
    del gradient
    return _holders(parameter) == _one_holder()


def _holders(parameter: Tensor) -> tuple[int, ...]:
    """Return how many refer to the gradient of a parameter, and to its storage, in Python and below."""
    gradient: Any = parameter.grad
    storage = gradient.untyped_storage()
    below = gradient._use_count(), torch._C._storage_Use_Count(storage._cdata)
    return sys.getrefcount(gradient), sys.getrefcount(storage), *below


@cache
def _one_holder() -> tuple[int, ...]:
    """Return these counts for a gradient that nobody holds but its parameter."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return _holders(parameter)


class Randomness:
    """The states of Python's, NumPy's and torch's generators when this is made."""

    def __init__(self) -> None:
        numpy = sys.modules.get("numpy")
        self._python, self._cpu = random.getstate(), torch.get_rng_state()
        self._numpy: Any = numpy.random.get_state() if numpy else None
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda: list[Tensor] = torch.cuda.get_rng_state_all() if cuda else []

    def same(self) -> bool:
        """Whether the generators stand where they stood: whether nothing was drawn since."""
        now = Randomness()
        tensors = zip([self._cpu, *self._cuda], [now._cpu, *now._cuda], strict=False)
        return self._python == now._python and self._same_numpy(now) and all(a.equal(b) for a, b in tensors)

    def _same_numpy(self, now: Randomness) -> bool:
        if not isinstance(self._numpy, tuple):  # of a generator of another kind than NumPy's own
            return str(self._numpy) == str(now._numpy)
        pairs = zip(self._numpy, now._numpy, strict=True)
        return all(a.tobytes() == b.tobytes() if hasattr(a, "tobytes") else a == b for a, b in pairs)

    def restore(self) -> None:
        """Set the generators back."""
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
    """Give gathered parameters of FSDP2 back for their shards, which a pass that failed halfway leaves undone."""
    for module in _modules(roots):
        reshard: Any = getattr(module, "reshard", None)
        if callable(reshard):
            reshard()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put an interrupt from the keyboard off until the end."""
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
