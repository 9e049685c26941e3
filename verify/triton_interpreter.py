"""Patch Triton's interpreter, which runs kernels on NumPy if ``TRITON_INTERPRET=1`` was set before the import.

Triton up to 3.6 converts an array of one entry to an integer by ``int``, which NumPy 2.5 rejects. Later versions first
drop the axes of the array, and ``mend`` (the patch function) makes older ones do so too. Half of the interpreter's time
is repeated work, so ``mend`` caches

* which members of Triton's modules a launch replaces, and that a call inside a launch has nothing left to replace;
* the NumPy type of each Triton type;
* the shape attributes of each block type and tensor type.

It also switches off Triton's own check of integers for overflow; the sizes here are small. It replaces no arithmetic.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

_RIGHT_SINCE = (3, 7)


def mend() -> None:
    """Patch the interpreter, if Triton is installed, for any NumPy version and for speed; call it before any launch."""
    if importlib.util.find_spec("triton") is None:
        return
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    if getattr(interpreter, "mended", False):
        return
    interpreter.mended = True
    core: Any = importlib.import_module("triton.language.core")
    _remember_builtins(interpreter, core)
    if tuple(map(int, version("triton").split(".")[:2])) < _RIGHT_SINCE:
        _drop_axes_of_integers(interpreter)
    _replace_once_a_launch(interpreter, core)
    _remember_types(interpreter)
    _remember_shapes(core)
    _unwrap_soon(core)
    object.__setattr__(interpreter.interpreter_builder.options, "sanitize_overflow", False)


def _remember_builtins(interpreter: Any, core: Any) -> None:
    names: dict[Any, list[str]] = {}

    def patch(package: Any, builder: Any, scope: Any) -> None:
        if package not in names:
            names[package] = [name for name, member in inspect.getmembers(package) if core.is_builtin(member)]
        for name in names[package]:
            member = getattr(package, name)
            if core.is_builtin(member):  # false if it is replaced already
                interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patch


def _drop_axes_of_integers(interpreter: Any) -> None:
    original = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patch


def _replace_once_a_launch(interpreter: Any, core: Any) -> None:
    """Replace members of Triton's language at a launch, but not again for calls inside it."""
    original, languages = interpreter._patch_lang, (interpreter.tl, core)
    seen: dict[Any, frozenset[Any]] = {}
    replaced: set[Any] = set()

    def patch(function: Any) -> Any:
        if function not in seen:
            modules = filter(inspect.ismodule, function.__globals__.values())
            seen[function] = frozenset(module for module in modules if module in languages)
        if seen[function] <= replaced:
            return interpreter._LangPatchScope()
        outermost, scope = not replaced, original(function)
        replaced.update(seen[function])
        if outermost:
            scope.restore = _and_then(scope.restore, replaced.clear)
        return scope

    interpreter._patch_lang = patch


def _and_then(first: Callable[[], Any], second: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that calls both."""

    def both() -> None:
        first()
        second()

    return both


def _remember_types(interpreter: Any) -> None:
    """Cache NumPy's type by the name of Triton's, because the interpreter rebuilds its table at each look-up."""
    original, known = interpreter._get_np_dtype, {}

    def found(dtype: Any) -> Any:
        name = dtype.name
        if name not in known:
            known[name] = original(dtype)
        return known[name]

    interpreter._get_np_dtype = found


def _remember_shapes(core: Any) -> None:
    """Reuse the attributes of the first block type or tensor with the same type and shape."""
    make_block, make_tensor, constexpr = core.block_type.__init__, core.tensor.__init__, core.constexpr
    blocks: dict[Any, dict[str, Any]] = {}
    tensors: dict[Any, dict[str, Any]] = {}

    def block(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = [s.value if type(s) is constexpr else s for s in shape]
        key = (element_ty.name, getattr(element_ty, "address_space", 0), *sizes)
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))
        vars(self).update(blocks[key])

    def tensor(self: Any, handle: Any, type: Any) -> None:
        key = type.name, getattr(type.scalar, "address_space", 0)
        if key not in tensors:
            make_tensor(self, handle, type)
            tensors[key] = dict(vars(self))
        vars(self).update(tensors[key], handle=handle)

    core.block_type.__init__, core.tensor.__init__ = block, tensor


def _unwrap_soon(core: Any) -> None:
    """Check whether a value is a constant before checking the container types that may hold constants."""
    original, constexpr = core._unwrap_if_constexpr, core.constexpr
    plain = {int, float, bool, str, type(None), core.tensor, core.dtype, core.block_type, core.pointer_type}

    def unwrapped(value: Any) -> Any:
        kind = type(value)
        if kind is constexpr:
            return value.value
        return value if kind in plain else original(value)

    core._unwrap_if_constexpr = unwrapped
