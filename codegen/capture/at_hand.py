"""An existing module as a factory: the sizes of its parameters are fixed, those of its inputs may vary.

Input lengths that may vary, such as the number of tokens, become the factory's sizes. The factory copies the module to
the CPU, in float64 and without hooks, and leaves the original unchanged.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from codegen.capture.errors import CaptureError, refuse
from codegen.capture.exporting import Program, export
from codegen.capture.factory import Factory, Made, in_double
from codegen.capture.loading import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

Inputs = tuple[Sequence[Any], Mapping[str, Any]]
_NAMES = ("length", "length_2", "length_3", "length_4")
_MOST_GUESSES = 60
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def bound(signature: inspect.Signature, args: Sequence[Any], words: Mapping[str, Any]) -> Inputs:
    """Return the arguments of a call of ``forward``, positional where possible, without those at their defaults."""
    given = signature.bind(None, *args, **words)
    defaults = {n: p.default for n, p in signature.parameters.items()}
    for name in [n for n, value in given.arguments.items() if value is defaults[n]]:
        del given.arguments[name]
    return given.args[1:], given.kwargs


def instance_factory(module: nn.Module, inputs: Inputs, free: bool = True) -> Factory:
    """Return the factory of one module; with ``free``, the input lengths that the module lets vary are its sizes."""
    words = type(module).__name__
    single = copied(module)
    args, kwargs = bound(inspect.signature(type(module).forward), *inputs)
    given = Made(single, tuple(args), dict(kwargs)).changed(_plain)
    groups = list(_free_lengths(given)) if free else []
    names = _NAMES[: len(groups)]

    def make(**sizes: int) -> Any:
        """Return a copy of the module, and inputs with the given free lengths."""
        places = {p: sizes[n] for n, group in zip(names, groups, strict=False) for p in group}
        made = _with_lengths(given, places)
        examples: Any = made.positional if not made.named else {**_by_name(module, made.positional), **made.named}
        return copied(module), examples

    return Factory(words, make, names)


def program_at(module: nn.Module, inputs: Inputs) -> Program:
    """Return the program of a module with these inputs."""
    return export(instance_factory(module, inputs, free=False)({}))


def program_of(module: nn.Module, inputs: Inputs) -> str:
    """Return a key that is equal for two modules that compute the same function of their parameters and inputs."""
    program = program_at(module, inputs)
    given = [(g.kind, g.path, _told(g.kind, g.value)) for g in program.given]
    nodes = [(n.name, n.operator, sorted(n.arguments.items()), n.shape) for n in program.nodes]
    return repr((type(module).__qualname__, given, nodes, program.output, program.outputs))


def _told(kind: str, value: Any) -> str:
    """Return a tensor's part of the key: shape and type, and the values too of constants, masks and integer buffers."""
    import torch

    if not isinstance(value, torch.Tensor):
        return repr(value)
    about = f"{tuple(value.shape)} {value.dtype}"
    fixed = kind == "constant" or (kind == "buffer" and (not value.is_floating_point() or bool(value.isinf().any())))
    return about + hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest() if fixed else about


def same_in_both_modes(module: nn.Module, inputs: Inputs) -> None:
    """Refuse a module whose training and evaluation modes differ, or that overwrites tensors."""
    found = []
    for training in (True, False):
        made = instance_factory(module, inputs, free=False)({})
        made.module.train(training)
        program = export(made)
        if program.outputs != 1:
            raise refuse(
                f"{type(module).__name__} returns {program.outputs} tensors", "convert supports modules that return one"
            )
        if any(n.operator.endswith("_") and not n.operator.endswith("__") for n in program.nodes):
            raise refuse(f"{type(module).__name__} overwrites tensors in forward", "compute new ones there")
        found.append([(n.operator, n.arguments, n.shape) for n in program.nodes])
    if found[0] != found[1]:
        raise refuse(
            f"{type(module).__name__} computes different functions in training and in evaluation",
            "a captured map must be the same in both: take dropout and batch statistics out of the module",
        )


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the CPU in float64, without its own hooks; those of its submodules stay."""
    try:
        made = copy.deepcopy(module).cpu().double()
    except (RuntimeError, TypeError, NotImplementedError) as problem:
        raise refuse(
            f"{type(module).__name__} cannot be deep-copied: {first_line(problem)}",
            "register its tensors as parameters or buffers",
        ) from problem
    for word in _HOOKS:
        made.__dict__[word].clear()
    return made


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.double() if value.is_floating_point() else value


def _by_name(module: nn.Module, positional: Sequence[Any]) -> dict[str, Any]:
    names = [n for n in inspect.signature(type(module).forward).parameters][1:]
    return dict(zip(names, positional, strict=False))


Place = tuple[int, int]  # (index of the tensor, index of its axis)


def _free_lengths(given: Made) -> Iterator[list[Place]]:
    """Yield the input axes whose length the module lets vary; axes whose lengths must agree form one group."""
    import torch

    tensors = [v for v in given.flat if isinstance(v, torch.Tensor)]
    batched = given.leading() is not None
    places = [(k, axis) for k, t in enumerate(tensors) for axis in range(int(batched), t.dim())]
    lengths = dict.fromkeys(tensors[k].shape[axis] for k, axis in places)
    found = 0
    for length in lengths:
        group = [(k, axis) for k, axis in places if tensors[k].shape[axis] == length]
        for together in dict.fromkeys([tuple(group), *((place,) for place in group)]):
            if found < len(_NAMES) and all(_runs(given, dict.fromkeys(together, n)) for n in (length + 1, 2 * length)):
                found += 1
                yield list(together)
                break


def _with_lengths(given: Made, places: Mapping[Place, int]) -> Made:
    """Return the inputs with other lengths, their entries repeated in turn."""
    import torch

    tensors = iter(range(len(given.flat)))

    def resized(value: Tensor) -> Tensor:
        """Return the next of the tensors with its own new lengths."""
        k = next(tensors)
        for (which, axis), length in places.items():
            if which == k:
                value = value.index_select(axis, torch.arange(length) % max(1, value.shape[axis]))
        return value

    return given.changed(resized)


def _runs(given: Made, places: Mapping[Place, int]) -> bool:
    import torch

    made = _with_lengths(given, places)
    try:
        with torch.no_grad(), in_double():
            made.module(*made.positional, **made.named)
    except Exception:  # whatever forward raises: it does not accept these lengths
        return False
    return True


def guessed(module: nn.Module) -> Inputs | str:
    """Return inputs of the only shape that a module of one input accepts, or why they cannot be guessed.

    The shapes tried have one axis as long as an axis of a parameter: first rows, then shapes with more axes.
    """
    import torch

    parameters = [p for p in inspect.signature(type(module).forward).parameters.values()][1:]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = "pass convert an example, which shows how it is called"
    if len(needed) != 1:
        return f"its forward takes {len(needed)} arguments; {unknown}"
    widths = sorted({n for p in module.parameters() for n in p.shape if n > 1})
    try:
        made = copied(module)
    except CaptureError as problem:
        return str(problem)
    free = [n for n in range(3, 64) if n not in widths]
    batch, one, two = free[0], max(7, free[1]), max(8, free[2])
    for more in ((), (one,), (one, two)):
        shapes = [(batch, *more[:k], w, *more[k:]) for w in widths for k in range(len(more), -1, -1)]
        taken = [s for s in shapes[:_MOST_GUESSES] if _runs(Made(made, (torch.randn(s).double(),), {}), {})]
        if len(taken) == 1:
            return (torch.randn(taken[0], generator=torch.Generator().manual_seed(0)),), {}
        if taken:
            listed = " and ".join(str(s) for s in taken[:2])
            return f"it accepts inputs of several shapes, such as {listed}; {unknown}"
    return f"it accepts no input shape that its parameters suggest; {unknown}"


__all__ = ["Inputs", "bound", "copied", "guessed", "instance_factory", "program_at", "program_of", "same_in_both_modes"]
