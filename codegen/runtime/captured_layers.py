"""Layers of a user's own class, which ``convert`` replaces by a map generated at run time.

The compiler generates the map (``codegen.capture.twins`` of the distribution affine-divergence); this package imports
it only if ``convert`` gets ``also``. The layer stays the same object; its class becomes a subclass whose forward is the
map, with the layer's own arguments, parameters and buffers.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .conversion_reasons import of_a_part, used_directly
from .direct_uses import direct_uses

Also = Mapping[type[nn.Module], str]
Inputs = tuple[tuple[Any, ...], dict[str, Any]]

SETTINGS = ("captured", "kappa", "backend")
_COMPILER = "codegen.capture.twins"  # another package, imported by name on first use
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_classes: dict[tuple[type[nn.Module], Any], type[nn.Module]] = {}


def checked(also: object, known: Collection[type[nn.Module]]) -> Also:
    """Check ``also`` and return it unchanged.

    Raises:
        TypeError: if it is not a mapping from module classes to names of maps.
        ValueError: if it has a class that ``convert`` replaces anyway.
    """
    if also is None:
        return {}
    example = 'such as {MyLayer: "affine-like"}'
    if not isinstance(also, Mapping):
        raise TypeError(
            f"convert: also is a {type(also).__name__}; give a dict of classes and names of maps, {example}"
        )
    for kind, wanted in also.items():
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise TypeError(f"convert: also has the key {kind!r}, which is not a module class; give a dict {example}")
        if not isinstance(wanted, str):
            raise TypeError(f"convert: also asks for the map {wanted!r} of {kind.__name__}; give its name, {example}")
        if kind in known:
            raise ValueError(f"convert: {kind.__name__} is replaced without also; leave it out there")
    return also


def reason_to_leave_captured(model: nn.Module, module: nn.Module) -> str:
    """Return why no generated map can replace a module of the user's, "" if one can."""
    inside = dict(module.named_modules())
    clash = next((word for word in SETTINGS if hasattr(module, word)), None)
    if clash is not None:
        return f"it has an attribute {clash!r} of its own, which convert would set"
    for name, part in inside.items():
        if name and any(getattr(part, word, None) for word in _HOOKS):
            return f"its part {name} has hooks, which would no longer be called"
        if any(is_lazy(p) for p in part._parameters.values() if p is not None):
            return "its shapes are not known yet; call it once before converting"
        why = of_a_part(part)
        if why:
            return f"{why}{f' (in its part {name})' if name else ''}"
    held = next((w for w, value in module.__dict__.items() if isinstance(value, Tensor) and value.requires_grad), None)
    if held is not None:
        return f"its {held} is computed from other parameters"
    own = {id(part) for part in inside.values()}
    for other in model.modules():
        for part, word in direct_uses(other) if id(other) not in own else ():
            if id(part) in own:
                return used_directly(type(other).__name__, word)
    return ""


def captured_counterpart(module: nn.Module, wanted: str, inputs: Inputs | None, **settings: Any) -> nn.Module | str:
    """Return the layer as a module of the generated class, or why there is none.

    Args:
        module: the layer, which is not changed.
        wanted: the name of the map.
        inputs: example arguments of its forward; None guesses them from the shapes of its parameters.
        settings: kappa and backend, if they are not the defaults.

    Raises:
        ModuleNotFoundError: if the compiler is not installed.
    """
    compiler = _compiler()
    if inputs is None:
        inputs = compiler.guessed(module)
    if isinstance(inputs, str):
        return inputs
    twin = compiler.twin(module, inputs, wanted)
    if isinstance(twin, str):
        return twin
    try:
        made = object.__new__(_class_of(type(module), twin))
        nn.Module.__init__(made)
    except TypeError as problem:
        return f"no subclass of {type(module).__name__} can be made: {problem}"
    made.__dict__["captured"] = {"map": wanted, "inputs": _described(inputs)}
    made.__dict__["kappa"] = settings.get("kappa", twin.kappa)
    made.__dict__["backend"] = settings.get("backend")
    return made


def restored_counterpart(module: nn.Module, settings: Mapping[str, Any]) -> nn.Module | str:
    """Return the generated counterpart that a record's settings describe, or why there is none."""
    captured = settings["captured"]
    try:
        inputs, wanted = _drawn(captured["inputs"]), str(captured["map"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        return f"its record {captured!r} does not say what it is called with"
    more = {word: settings[word] for word in SETTINGS[1:] if word in settings}
    return captured_counterpart(module, wanted, inputs, **more)


def is_captured(kind: type[nn.Module]) -> bool:
    """Return whether this module made a class."""
    return kind.__module__ == __name__


def _compiler() -> Any:
    try:
        return importlib.import_module(_COMPILER)
    except ModuleNotFoundError as problem:
        raise ModuleNotFoundError(
            f"convert: the argument also needs the compiler of the maps, but {problem.name!r} is not installed; "
            "pip install affine-divergence"
        ) from problem


def _class_of(kind: type[nn.Module], twin: Any) -> type[nn.Module]:
    """Return the subclass of a class whose forward is a generated map."""
    if (kind, twin) not in _classes:
        suffix = "".join(word.capitalize() for word in twin.map.replace("_", "-").split("-"))

        def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
            """Return the generated map's output; its errors propagate."""
            found: Tensor = twin(self, args, kwargs, self.kappa, self.backend)
            return found

        words = {"forward": forward, "__module__": __name__, "__doc__": f"The {twin.map} map of ``{kind.__name__}``."}
        _classes[kind, twin] = types.new_class(
            f"{kind.__name__}{suffix}", (kind,), {}, lambda space: space.update(words)
        )
    return _classes[kind, twin]


def _described(value: Any) -> Any:
    """Return inputs in a form for JSON: a tensor becomes its shape and type."""
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"named": {word: _described(entry) for word, entry in value.items()}}
    return [_described(entry) for entry in value] if isinstance(value, list | tuple) else value


def _drawn(told: Any) -> Any:
    """Return inputs of the described shapes: random numbers, or zeros for integers."""
    if isinstance(told, list):
        return tuple(_drawn(entry) for entry in told)
    if isinstance(told, Mapping) and "named" in told:
        return {word: _drawn(entry) for word, entry in told["named"].items()}
    if isinstance(told, Mapping):
        dtype = getattr(torch, told["dtype"])
        if not dtype.is_floating_point:
            return torch.zeros(told["shape"], dtype=dtype)
        return torch.randn(told["shape"], generator=torch.Generator().manual_seed(0)).to(dtype)
    return told
