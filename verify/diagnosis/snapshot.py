"""What the objects that some roots reach hold, and how to write it back in place.

    module, plain object     its attributes, also slots
    dict, list, set, deque   its entries, by the methods of the base class: a subclass may refuse to be changed
    tensor, array            its numbers, bit for bit, its gradient, and the storage that it stands in
    function                 what it closes over, its default arguments and attributes
    generator                the state of the random numbers to come

Not followed: modules of Python, classes, threads, files, and the machinery of torch and of services that log.
"""

from __future__ import annotations

import array
import functools
import gc
import operator
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from verify.diagnosis.tensor_state import TensorState

_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, types.CodeType,
    types.BuiltinFunctionType, torch.dtype, torch.device, torch.Size, slice, range,
)  # fmt: skip
_PLAIN_ATOMS = frozenset(_ATOMS)  # of these themselves, which are most things, no subclass has to be looked for
_INFRASTRUCTURE = {
    "threading", "_thread", "queue", "logging", "multiprocessing", "concurrent", "asyncio", "socket", "io",
    "subprocess", "weakref", "ctypes", "contextvars", "wandb", "mlflow", "tensorboard", "tensorboardX", "ray", "grpc",
    "fsspec",
}  # fmt: skip
_OF_TORCH = ("torch.nn", "torch.optim", "torch.amp", "torch.ao", "torch.utils.hooks")  # whose objects hold plain state

Restore = Callable[[], None]


class Snapshot:
    """The state of everything that the roots reach, taken when it is made.

    Args:
        roots: models, optimisers, functions, batches: anything.
        but: what is left out, with all that it alone reaches.
    """

    def __init__(self, *roots: Any, but: Sequence[Any] = ()) -> None:
        self._restores: list[Restore] = []
        self._mappings: list[
            tuple[Any, dict[Any, Any], list[Any], list[Any]]
        ] = []  # most things, so not a function each
        self._empty: list[Any] = []
        self._tensors: dict[int, TensorState] = {}
        self._seen: dict[int, Any] = {id(thing): thing for thing in but}
        collecting = gc.isenabled()
        gc.disable()  # thousands of objects are made here and none is garbage, which the collector would look for
        try:
            self._walk(roots)
        except BaseException:
            self.restore()  # parameters may stand in copies already
            raise
        finally:
            if collecting:
                gc.enable()

    def _walk(self, roots: Sequence[Any]) -> None:
        """Take the state of all that the roots reach."""
        waiting: list[tuple[Any, bool]] = [(root, False) for root in reversed(roots)]
        while waiting:
            thing, through_function = waiting.pop()
            kind = type(thing)
            mapping = kind is dict or kind is OrderedDict  # most things are
            if id(thing) in self._seen or (not mapping and isinstance(thing, _ATOMS)):
                continue
            self._seen[id(thing)] = thing  # also keeps it alive, so that its id stays its own
            if mapping and not thing and not getattr(thing, "__dict__", None):
                self._empty.append(thing)
                continue
            through_function |= kind is types.FunctionType and not _is_library(thing)
            held = self._mapping(thing) if isinstance(thing, dict) else self._take(thing, through_function)
            waiting += [(part, through_function) for part in held if type(part) not in _PLAIN_ATOMS]

    def numbers(self, tensor: Tensor) -> Tensor | None:
        """Return the numbers that a tensor held, not to be changed; None if it was not met or holds inner tensors."""
        state = self._tensors.get(id(tensor))
        return None if state is None else state.numbers

    def restore(self) -> None:
        """Write everything back.

        Raises:
            ExceptionGroup: some parts refused; all others are back.
        """
        problems: list[Exception] = []
        for mapping in self._empty:
            if mapping:
                mapping.clear()
            if attributes := getattr(mapping, "__dict__", None):
                attributes.clear()
        for held in self._mappings:
            _attempt(problems, _refill_mapping, *held)
        for restore in self._restores:
            _attempt(problems, restore)
        if problems:
            raise ExceptionGroup("parts of the model's state could not be written back", problems)

    def _take(self, thing: Any, through_function: bool) -> Iterator[Any]:
        """Note how to restore one thing, and yield what it holds."""
        match thing:
            case Tensor():
                yield from self._tensor(thing)
            case list() | bytearray() | array.array():
                yield from self._sequence(thing)
            case set():
                held = set(thing)
                self._restores.append(functools.partial(_refill_set, thing, held))
                yield from held
            case deque():
                kept = list(thing)
                self._restores.append(functools.partial(_refill_deque, thing, kept))
                yield from kept
            case tuple() | frozenset():
                yield from thing
            case types.FunctionType():
                yield from self._function(thing)
            case types.MethodType():
                yield thing.__self__
                yield thing.__func__
            case functools.partial():
                yield from (thing.func, thing.args, thing.keywords)
            case torch.Generator() | random.Random():
                self._restores.append(_generator(thing))
            case _:
                yield from self._object(thing, through_function)

    def _tensor(self, tensor: Tensor) -> Iterator[Any]:
        yield vars(tensor)
        held: Any = tensor
        if is_traceable_wrapper_subclass(held):
            yield from (getattr(held, name) for name in held.__tensor_flatten__()[0])
        state = self._tensors[id(tensor)] = TensorState(tensor)
        self._restores.append(state.restore)
        yield state.gradient

    def _mapping(self, mapping: dict[Any, Any]) -> list[Any]:
        """Note the entries of a mapping, and return them with its attributes."""
        kind: Any = OrderedDict if isinstance(mapping, OrderedDict) else dict
        keys, values = list(kind.keys(mapping)), list(kind.values(mapping))
        self._mappings.append((kind, mapping, keys, values))
        return [*keys, *values, None if type(mapping) is dict else getattr(mapping, "__dict__", None)]

    def _sequence(self, sequence: Any) -> Iterator[Any]:
        kind: Any = list if isinstance(sequence, list) else type(sequence)
        before = sequence[:] if not isinstance(sequence, list) else list(list.__iter__(sequence))

        def _restore() -> None:
            if kind is not list or not _same(sequence, before):
                kind.__setitem__(sequence, slice(None), before)

        self._restores.append(_restore)
        if kind is list:
            yield from before
            yield getattr(sequence, "__dict__", None)

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        yield from (function.__dict__, function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            self._restores.append(functools.partial(setattr, cell, "cell_contents", value))
            yield value

    def _object(self, thing: Any, through_function: bool) -> Iterator[Any]:
        if type(thing).__module__.split(".")[0] == "numpy":
            yield from self._numpy(thing)
            return
        if not _is_followed(thing, through_function):
            return
        yield getattr(thing, "__dict__", None)
        kind: Any = type(thing)
        for name in _slots(kind):
            with suppress(AttributeError):
                value = object.__getattribute__(thing, name)
                self._restores.append(functools.partial(_set_slot, thing, name, value))
                yield value

    def _numpy(self, thing: Any) -> Iterator[Any]:
        import numpy

        if isinstance(thing, numpy.ndarray):
            kept = thing.copy()
            if thing.flags.writeable:
                self._restores.append(lambda: numpy.copyto(thing, kept, casting="no"))
            if thing.dtype == object:
                yield from kept.flat
        elif isinstance(thing, numpy.random.Generator):
            state = thing.bit_generator.state
            self._restores.append(lambda: setattr(thing.bit_generator, "state", state))
        elif isinstance(thing, numpy.random.RandomState):
            legacy = thing.get_state()
            self._restores.append(lambda: thing.set_state(legacy))


def _attempt(problems: list[Exception], action: Callable[..., None], *arguments: Any) -> None:
    """Run an action, and note the exception that it raises."""
    try:
        action(*arguments)
    except Exception as problem:
        problems.append(problem)


def _refill_mapping(kind: Any, mapping: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    if not (_same(list(kind.keys(mapping)), keys) and _same(list(kind.values(mapping)), values)):
        kind.clear(mapping)
        for key, value in zip(keys, values, strict=True):
            kind.__setitem__(mapping, key, value)


def _refill_set(held: set[Any], before: set[Any]) -> None:
    if held != before:  # an equal one keeps its order
        set.clear(held)
        set.update(held, before)


def _refill_deque(held: deque[Any], before: list[Any]) -> None:
    if not _same(held, before):
        deque.clear(held)
        deque.extend(held, before)


def _same(sequence: Any, before: list[Any]) -> bool:
    return len(sequence) == len(before) and all(map(operator.is_, sequence, before))


def _generator(thing: Any) -> Restore:
    if isinstance(thing, torch.Generator):
        held = thing.get_state().clone()
        return functools.partial(_call, thing.set_state, held)
    drawn = thing.getstate()
    return lambda: thing.setstate(drawn)


def _call(function: Callable[[Any], Any], value: Any) -> None:
    function(value)


@functools.lru_cache(maxsize=10_000)
def _slots(kind: Any) -> tuple[str, ...]:
    """Return the names of the slots of a class and of those that it inherits from."""
    return tuple(name for each in kind.__mro__ for name in _own_slots(each))


def _own_slots(kind: type) -> list[str]:
    names = kind.__dict__.get("__slots__", ())
    if not names:
        return []
    names = [names] if isinstance(names, str) else list(names)
    private = [f"_{kind.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n for n in names]
    return [name for name in private if name not in ("__dict__", "__weakref__")]


def _set_slot(thing: Any, name: str, value: Any) -> None:
    try:
        same = object.__getattribute__(thing, name) is value
    except AttributeError:
        same = False
    if not same:
        object.__setattr__(thing, name, value)


def _is_library(thing: Any) -> bool:
    """Whether a function or an object's class was written in an installed package."""
    name = thing.__module__ if isinstance(thing, types.FunctionType) else type(thing).__module__
    path = getattr(sys.modules.get(name or ""), "__file__", None) or ""
    return "site-packages" in path or "dist-packages" in path or (name or "").split(".")[0] in sys.stdlib_module_names


def _is_followed(thing: Any, through_function: bool) -> bool:
    """Whether to look into an object: not into services, nor into libraries' objects that a function closes over."""
    if isinstance(thing, nn.Module | torch.optim.Optimizer):
        return True
    home = type(thing).__module__ or ""
    if home.split(".")[0] in _INFRASTRUCTURE or ".loggers" in home or ".trainer" in home:
        return False
    if home.split(".")[0] in ("torch", "triton", "numpy", "builtins"):
        return home.startswith(_OF_TORCH)
    return not (through_function and _is_library(thing))
