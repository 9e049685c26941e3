"""A factory: a function whose integer parameters are sizes and that returns ``(module, example inputs)``.

Parameters annotated ``int``, and those without annotation or default, are sizes; a parameter with a default keeps it.
Example inputs are one tensor, a tuple or list of positional ones, or a dict of named ones. ``class_factory`` makes a
factory of a module class whose forward takes one tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codegen.capture.errors import refuse
from codegen.capture.loading import load, where
from derive.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

_INTEGERS = (int, "int", inspect.Parameter.empty)
_OTHERS = ("str", "float", "bool", "Module")
SEED = 0


@dataclass(frozen=True)
class Made:
    """The result of a factory at some sizes: a module in float64, positional and named examples."""

    module: nn.Module
    positional: tuple[Any, ...]
    named: Mapping[str, Any]

    @property
    def flat(self) -> list[Any]:
        """Every example, also those inside tuples, lists and dicts, in the order of the program's inputs."""
        return flattened((self.positional, dict(self.named)))

    def leading(self) -> int | None:
        """Return the length of the first axis if it is the same in all tensor examples; else None."""
        import torch

        tensors = [v for v in self.flat if isinstance(v, torch.Tensor)]
        lengths = {int(e.shape[0]) if e.dim() else None for e in tensors}
        return lengths.pop() if len(lengths) == 1 else None

    def with_batch(self, count: int) -> Made:
        """Return the same with ``count`` rows along the first axis of every example, repeating the rows cyclically."""
        import torch

        return self.changed(lambda t: t[torch.arange(count) % t.shape[0]])

    def changed(self, change: Callable[[Tensor], Tensor]) -> Made:
        """Return the same with ``change`` applied to every tensor example."""
        return Made(self.module, mapped(self.positional, change), mapped(dict(self.named), change))


def flattened(value: Any) -> list[Any]:
    """Return the leaves of nested tuples, lists and dicts, in order."""
    if isinstance(value, tuple | list):
        return [part for entry in value for part in flattened(entry)]
    if isinstance(value, Mapping):
        return [part for entry in value.values() for part in flattened(entry)]
    return [value]


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with ``change`` applied to every tensor in it, also inside tuples, lists and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(mapped(entry, change) for entry in value)
    if isinstance(value, Mapping):
        return {key: mapped(entry, change) for key, entry in value.items()}
    return value


@dataclass(frozen=True)
class Factory:
    """A callable with the names of its sizes; messages call it ``words``."""

    words: str
    call: Callable[..., Any]
    sizes: tuple[str, ...]

    def __call__(self, sizes: Mapping[str, int]) -> Made:
        """Return what the factory makes at these sizes; raise CaptureError if it raises or returns something else."""
        given = ", ".join(f"{k}={v}" for k, v in sizes.items())
        with in_double():
            try:
                result = self.call(**sizes)
            except (Exception, SystemExit) as problem:
                raise refuse(
                    f"the factory {self.words!r} raised {where(problem)}, called with {given or 'no sizes'}",
                    "make its integer parameters sizes that can be chosen freely, each above 1 "
                    "(multiply sizes in the factory where one must divide another)",
                    about_sizes=bool(sizes),
                ) from problem
            return self._read(result)

    def _read(self, result: Any) -> Made:
        import torch
        from torch import nn

        mend = "return (module, example inputs), such as (nn.Linear(n, m), torch.randn(5, n))"
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], nn.Module):
            if inspect.iscoroutine(result):
                result.close()
            shown = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise refuse(f"the factory {self.words!r} returned {shown}", mend)
        module, examples = result
        positional: Sequence[Any] = examples if isinstance(examples, tuple | list) else (examples,)
        named: Mapping[str, Any] = {}
        if isinstance(examples, Mapping):
            positional, named = (), examples
        given = flattened((tuple(positional), dict(named)))
        for value in given:
            if not isinstance(value, torch.Tensor | int | float | bool | None):
                raise refuse(f"the factory {self.words!r} returned a {type(value).__name__} as an example input", mend)
        if not any(isinstance(v, torch.Tensor) for v in given):
            raise refuse(f"the factory {self.words!r} returned no tensor as an example input", mend)
        for value in given:
            if isinstance(value, torch.Tensor) and not value.numel():
                raise refuse(
                    f"the factory {self.words!r} returned an example input of shape {tuple(value.shape)}", mend
                )
        _refuse_parameters(module, self.words)
        return Made(module.double(), tuple(positional), named).changed(_double)


def _refuse_parameters(module: nn.Module, words: str) -> None:
    """Refuse a module with lazy parameters, which have no shape yet, or without trainable parameters."""
    from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(parameter, UninitializedParameter | UninitializedBuffer):
            raise refuse(
                f"{type(module).__name__} has the lazy parameter {name!r}, which has no shape yet",
                f"give its sizes in the factory {words!r}, or run the module once there",
            )
    if not any(p.requires_grad for p in module.parameters()):
        raise refuse(
            f"{type(module).__name__} has no trainable parameter, so no update moves its output",
            "return a module that has parameters, with requires_grad set",
        )


def _double(value: Tensor) -> Tensor:
    value = value.detach()
    return value.double() if value.is_floating_point() else value


@contextmanager
def in_double() -> Iterator[None]:
    """Make float64 the default type and fix the random seed; both are restored afterwards."""
    import torch

    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def named_factory(words: str, example: str | None = None) -> Factory:
    """Return the factory named by ``MODULE:FACTORY``, or by ``MODULE:Class`` with the axes of an example."""
    found = load(words)
    if isinstance(found, type):
        return class_factory(found, example, words)
    if example is not None:
        raise UsageError(f"--example {example!r} goes with a class of modules, but {words!r} is a function: remove it")
    return as_factory(found, words)


def as_factory(call: Callable[..., Any], words: str = "") -> Factory:
    """Return a callable as a factory whose sizes are read from its signature."""
    words = words or getattr(call, "__qualname__", type(call).__name__)
    return Factory(words, call, _sizes(call, words))


def class_factory(kind: type, example: str | None, words: str) -> Factory:
    """Return the factory of a class of modules: ``example`` names the axes of its input, sizes or integers."""
    from torch import nn

    if not issubclass(kind, nn.Module):
        raise UsageError(f"{words!r} is a class, but not a subclass of nn.Module; name a function or an nn.Module")
    if example is None:
        raise UsageError(f"{words!r} is a class: give the axes of its input, such as --example 'B n'")
    _check_forward(kind, words)
    sizes, axes = _sizes(kind, words), example.split()
    unknown = [a for a in axes if not (a.isdigit() and int(a) > 0) and not a.isidentifier()]
    if unknown or not axes:
        raise UsageError(
            f"--example {example!r}: {unknown[0] if unknown else ''!r} is not an axis; write names or integers"
        )
    more = tuple(dict.fromkeys(a for a in axes if a.isidentifier() and a not in sizes))

    def make(**given: int) -> Any:
        """Return the module at these sizes, and one random input."""
        import torch

        module = kind(**{name: given[name] for name in sizes})
        return module, torch.randn(*(int(a) if a.isdigit() else given[a] for a in axes))

    return Factory(words, make, (*sizes, *more))


def _check_forward(kind: Any, words: str) -> None:
    """Refuse a class whose forward does not take exactly one tensor."""
    parameters = [*inspect.signature(kind.forward).parameters.values()][1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        raise UsageError(
            f"the forward of {words!r} takes {', '.join(needed)}, but --example describes one tensor; write a function "
            "that returns (module, (examples, ..)) and name it"
        )


def _sizes(call: Callable[..., Any], words: str) -> tuple[str, ...]:
    """Return the names of the parameters that are sizes; refuse a required parameter that is not a size."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError) as problem:
        raise refuse(f"{words!r} has no signature to read sizes from", "write a function around it") from problem
    found = []
    for p in parameters:
        if p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        text = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", str(p.annotation))
        integer = p.annotation in _INTEGERS or (isinstance(call, type) and not any(o in text for o in _OTHERS))
        if not integer or p.kind is p.POSITIONAL_ONLY:
            raise refuse(
                f"the parameter {p.name!r} of the factory {words!r} is {text}, not a size",
                "annotate it int, or give it a default",
            )
        found.append(p.name)
    return tuple(found)
