"""Generate the replacement (twin) of one existing module, for ``affine_divergence.convert``.

    stage      input -> output                                              where
    capture    the module, at its own sizes, and its inputs -> Layer        ``at_hand``, then as for a factory
    solve      Layer -> the cancelling map of a given name               ``derive.solve``
    generate   Layer -> a package in a temporary folder, imported       ``codegen.compiler.build_layer``
    call       the module's own arguments and parameters -> its output      ``Twin``

Modules that compute the same share one twin. Not done here: the module itself is never changed.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codegen.capture.at_hand import Inputs, bound, guessed, instance_factory, program_of, same_in_both_modes
from codegen.capture.driver import Captured, read_from
from codegen.capture.errors import CaptureError
from codegen.capture.factory import flattened
from codegen.capture.fitting import Fitter
from codegen.capture.proof import prove
from derive.cancel import solve
from derive.errors import UsageError
from derive.export.prose import plain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from derive.forward_map import Layer

TARGETS = ("torch",)
_known: dict[str, Twin | str] = {}


@dataclass(frozen=True)
class Argument:
    """An argument of the generated function: an input of the call, a path in the module, or a constant."""

    kind: str  # input, parameter, buffer, constant
    path: str
    place: int = 0
    value: Any = None
    single: bool = False


@dataclass(frozen=True, eq=False)
class Twin:
    """A generated map that is called like its module: with the module's own arguments, parameters and buffers.

    ``settings`` are the inputs that are not tensors, by position; a call must repeat the captured values.
    """

    map: str
    function: Callable[..., Tensor]
    arguments: tuple[Argument, ...]
    settings: Mapping[int, Any]
    count: int
    axes: tuple[tuple[str, ...], ...]
    indices: tuple[str, ...]
    signature: inspect.Signature
    layer: Layer

    @cached_property
    def kappa(self) -> float | None:
        """The map's default kappa; None if it depends on the sizes."""
        found: float | None = inspect.signature(self.function).parameters["kappa"].default
        return found

    def __call__(
        self, module: nn.Module, args: Sequence[Any], words: Mapping[str, Any], kappa: float | None, backend: str | None
    ) -> Tensor:
        """Return the map's output in the shape of the module's.

        Raises:
            TypeError: if the arguments are of another form than the captured ones.
            ValueError: if shapes do not fit.
        """
        given = self._inputs(type(module).__name__, args, words)
        tensors = [self._tensor(a, module, given) for a in self.arguments]
        like = next(t for t in tensors if t.is_floating_point())
        tensors = [
            t.to(like) if a.kind in ("constant", "buffer") and t.is_floating_point() else t
            for t, a in zip(tensors, self.arguments, strict=True)
        ]
        return self._as_the_module(self.function(*tensors, kappa, backend=backend))

    def _inputs(self, name: str, args: Sequence[Any], words: Mapping[str, Any]) -> list[Any]:
        args, words = bound(self.signature, args, words)
        given = flattened((tuple(args), dict(words)))
        wrong = len(given) != self.count or any(given[k] != v for k, v in self.settings.items())
        if wrong:
            raise TypeError(
                f"{name} was captured with {self.count} inputs, {len(self.settings)} of them numbers, and is called "
                "with others; call it as in the capture, or revert it"
            )
        return given

    def _tensor(self, argument: Argument, module: nn.Module, given: Sequence[Any]) -> Tensor:
        found: Tensor
        if argument.kind == "input":
            found = given[argument.place]
        elif argument.kind == "constant":
            found = argument.value
        else:
            home, _, word = argument.path.rpartition(".")
            found = getattr(module.get_submodule(home), word)
        return found.reshape(1) if argument.single else found

    def _as_the_module(self, z: Tensor) -> Tensor:
        own = [name for axis in self.axes for name in axis if name in self.indices]
        lead = z.dim() - len(self.indices)
        rest = [k for k, name in enumerate(self.indices) if name not in own]
        if own != list(self.indices):
            z = z.permute(*range(lead), *(lead + self.indices.index(n) for n in own), *(lead + k for k in rest))
        lengths = dict(zip(own, z.shape[lead:], strict=False))
        shape, batch = [], 0
        for k, axis in enumerate(self.axes):
            if any(name not in lengths for name in axis):
                batch = k
                continue
            length = 1
            for name in axis:
                length *= lengths[name]
            shape.append(length)
        z = z.reshape(*z.shape[:lead], *shape)
        return z.movedim(0, batch) if batch and lead == 1 else z


def twin(module: nn.Module, inputs: Inputs, wanted: str) -> Twin | str:
    """Return the twin of a module that computes the named map, or the reason why there is none.

    Args:
        module: any module; it is not changed.
        inputs: example arguments of its forward, positional and named.
        wanted: the name of a cancelling map, such as ``affine-like``.
    """
    try:
        program = program_of(module, inputs)
        key = hashlib.sha256(f"{wanted} {program}".encode()).hexdigest()
        if key not in _known:
            same_in_both_modes(module, inputs)
            _known[key] = _twin(module, inputs, wanted, key)
        return _known[key]
    except (CaptureError, UsageError) as problem:
        return f"it cannot be captured: {problem}"


def _twin(module: nn.Module, inputs: Inputs, wanted: str, key: str) -> Twin | str:

    found, fitter = _read(module, inputs)
    solutions = solve(found.layer)
    names = [m.name for m in solutions]
    if wanted not in names:
        reasons = "; ".join(plain(refusal.reason) for refusal in solutions.refusals)
        known = f"the maps that cancel are {', '.join(names)}" if names else "no map cancels its divergence"
        return f"it has no map {wanted!r}: {known}{f' ({reasons})' if reasons else ''}"
    prove(found, fitter)
    function = _generated(found.layer, wanted, f"affdiv_twin_{key[:16]}")
    return _of(found, function, wanted, module)


def _read(module: nn.Module, inputs: Inputs) -> tuple[Captured, Fitter]:
    """Capture with every input length that may vary left free; if that fails, at the given lengths."""
    factory = instance_factory(module, inputs)
    if factory.sizes:
        try:
            found, fitter = read_from(factory)
            if set(found.layer.sizes) <= {a for t in found.layer.inputs for a in t.axes if a.is_Symbol}:
                return found, fitter  # the generated function reads every size off its inputs
        except CaptureError:
            pass
    return read_from(instance_factory(module, inputs, free=False))


def _generated(layer: Layer, wanted: str, package: str) -> Callable[..., Tensor]:
    """Return the function of a map, from a package that is written for this process only."""
    from codegen.compiler import build_layer
    from codegen.package import write
    from codegen.printing.naming import snake

    folder = Path(tempfile.mkdtemp(prefix="affdiv_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write(build_layer(layer, package, targets=TARGETS), folder / package)
    sys.path.append(str(folder))
    try:
        functions = importlib.import_module(f"{package}.functional")
    finally:
        sys.path.remove(str(folder))
    function: Callable[..., Tensor] = getattr(functions, f"{snake(layer.name)}_{snake(wanted)}")
    return function


def _of(found: Captured, function: Callable[..., Tensor], wanted: str, module: nn.Module) -> Twin:
    program = found.samples[0].program
    inputs = [g for g in program.given if g.kind == "input"]
    constants = {g.path: g.value for g in program.given if g.kind == "constant"}
    arguments = []
    for tensor in (*found.layer.inputs, *found.layer.parameters):
        path, kind = found.paths[tensor.name], found.read.kinds[tensor.name]
        place = [g.path for g in inputs].index(path) if kind == "input" else 0
        value = next((g.value for g in program.given if (g.kind, g.path) == (kind, path)), None)
        single = kind != "input" and value is not None and value.dim() == 0
        arguments.append(Argument(kind, path, place, constants.get(path) if kind == "constant" else None, single))
    import torch

    settings = {k: g.value for k, g in enumerate(inputs) if not isinstance(g.value, torch.Tensor)}
    return Twin(
        map=wanted,
        function=function,
        arguments=tuple(arguments),
        settings=settings,
        count=len(inputs),
        axes=found.axes,
        indices=tuple(i.name for i in found.layer.output.indices[1:]),
        signature=inspect.signature(type(module).forward),
        layer=found.layer,
    )


__all__ = ["Twin", "guessed", "twin"]
