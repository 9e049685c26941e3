"""Record the state of all objects reachable from some roots, and restore it in place.

    module, plain object     its attributes, including slots
    dict, list, set, deque   its entries, through the methods of the base class, since a subclass may refuse changes
    tensor, array            its numbers, bit for bit, its gradient, and its storage
    function                 its closure, default arguments and attributes
    generator                the state of the random generator

Not followed: Python modules, classes, threads, files, and the internals of torch and of logging services.
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
_PLAIN_ATOMS = frozenset(_ATOMS)  # exact types, which cover most objects without a subclass check
_INFRASTRUCTURE = {
    "threading", "_thread", "queue", "logging", "multiprocessing", "concurrent", "asyncio", "socket", "io",
    "subprocess", "weakref", "ctypes", "contextvars", "wandb", "mlflow", "tensorboard", "tensorboardX", "ray", "grpc",
    "fsspec",
}  # fmt: skip
# Packages of torch whose objects hold plain state.
_OF_TORCH = ("torch.nn", "torch.optim", "torch.amp", "torch.ao", "torch.utils.hooks")

Restore = Callable[[], None]


class Snapshot:
    """The state of everything reachable from the roots, taken at construction.

    Args:
        roots: models, optimisers, functions, batches or any other objects.
        but: objects to leave out, with everything reachable only through them.
    """

    def __init__(self, *roots: Any, but: Sequence[Any] = ()) -> None:
        self._restores: list[Restore] = []
        # Plain data rather than closures, since most objects are mappings.
        self._mappings: list[tuple[Any, dict[Any, Any], list[Any], list[Any]]] = []
        self._empty: list[Any] = []
        self._tensors: dict[int, TensorState] = {}
        self._seen: dict[int, Any] = {id(thing): thing for thing in but}
        collecting = gc.isenabled()
        gc.disable()  # thousands of objects are created here and none is garbage, so collections would only cost time
        try:
            self._walk(roots)
        except BaseException:
            self.restore()  # parameters may already use copied storage
            raise
        finally:
            if collecting:
                gc.enable()

    def _walk(self, roots: Sequence[Any]) -> None:
        """Record the state of everything reachable from the roots."""
        waiting: list[tuple[Any, bool]] = [(root, False) for root in reversed(roots)]
        while waiting:
            thing, through_function = waiting.pop()
            kind = type(thing)
            mapping = kind is dict or kind is OrderedDict  # the most common case
            if id(thing) in self._seen or (not mapping and isinstance(thing, _ATOMS)):
                continue
            self._seen[id(thing)] = thing  # also keeps it alive, so that its id stays unique
            if mapping and not thing and not getattr(thing, "__dict__", None):
                self._empty.append(thing)
                continue
            through_function |= kind is types.FunctionType and not _is_library(thing)
            held = self._mapping(thing) if isinstance(thing, dict) else self._take(thing, through_function)
            waiting += [(part, through_function) for part in held if type(part) not in _PLAIN_ATOMS]

    def numbers(self, tensor: Tensor) -> Tensor | None:
        """Return the recorded numbers of a tensor (do not modify); None if not recorded or stored in inner tensors."""
        state = self._tensors.get(id(tensor))
        return None if state is None else state.numbers

    def restore(self) -> None:
        """Write everything back.

        Raises:
            ExceptionGroup: some parts could not be restored; all others are.
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
            raise ExceptionGroup("parts of the model's state could not be restored", problems)

    def _take(self, thing: Any, through_function: bool) -> Iterator[Any]:
        """Record how to restore one object, and yield the objects that it refers to."""
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
        """Record the entries of a mapping, and return them with its attributes."""
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
    """Run an action, and collect the exception if it raises one."""
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
    if held != before:  # an unchanged set keeps its iteration order
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
    """Return the names of the slots of a class and its base classes."""
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
    """Whether a function or an object's class belongs to an installed package."""
    name = thing.__module__ if isinstance(thing, types.FunctionType) else type(thing).__module__
    path = getattr(sys.modules.get(name or ""), "__file__", None) or ""
    return "site-packages" in path or "dist-packages" in path or (name or "").split(".")[0] in sys.stdlib_module_names


def _is_followed(thing: Any, through_function: bool) -> bool:
    """Whether to descend into an object; services, and library objects in closures, are skipped."""
    if isinstance(thing, nn.Module | torch.optim.Optimizer):
        return True
    home = type(thing).__module__ or ""
    if home.split(".")[0] in _INFRASTRUCTURE or ".loggers" in home or ".trainer" in home:
        return False
    if home.split(".")[0] in ("torch", "triton", "numpy", "builtins"):
        return home.startswith(_OF_TORCH)
    return not (through_function and _is_library(thing))
