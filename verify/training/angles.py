"""Layers at any angle t(r) of the affine family: derived, generated and imported on request of a trial.

    text ──▶ parsed expression ──▶ package in the cache, under the digest of text and generator ──▶ class

The formula parser reads the text; it is never executed. A package is written atomically, so that concurrent workers
find either all of it or nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from derive.errors import UsageError

if TYPE_CHECKING:
    from sympy import Expr
    from torch import nn

_CLASS, _FOLDER = "AngleLike", "affdiv"


@cache
def parsed(text: str) -> Expr:
    """Return the angle that a text describes, an expression in the positive symbol ``r``; else raise UsageError."""
    from derive.formula import parse_angle

    try:
        return parse_angle(text)
    except UsageError as problem:
        raise UsageError(f"angle = {text!r}: {str(problem).splitlines()[0]}") from None


@cache
def scale_invariant(text: str) -> bool | None:
    """Return whether the map at an angle is derived to be scale invariant; None if undecided."""
    from codegen.plans.solve_at import solve_at
    from derive.layers import layer

    return solve_at(layer("affine"), parsed(text))["angle"].scale_invariant


@cache
def layer_class(text: str) -> type[nn.Module]:
    """Return the generated class of an angle, from the cache if possible.

    Raises:
        UsageError: the angle cannot be derived, or the cache cannot be written.
    """
    return cast("type[nn.Module]", getattr(_imported(_package(text)), _CLASS))


@cache
def layers_digest(text: str) -> str:
    """Return the SHA-256 of an angle's package: of its derivations and all its files."""
    from codegen.package import MANIFEST

    return hashlib.sha256((_package(text) / MANIFEST).read_bytes()).hexdigest()


def cache_folder() -> Path:
    """Return the cache folder of generated angles: ``affdiv/angles`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / _FOLDER / "angles"


def _package(text: str) -> Path:
    """Return the folder of an angle's package, which is written if missing."""
    from codegen.compiler import build
    from codegen.package import MANIFEST, write

    expression = parsed(text)
    name = f"affdiv_angle_{hashlib.sha256(f'{text}/{_generator_digest()}'.encode()).hexdigest()[:24]}"
    folder = cache_folder() / name
    if not (folder / MANIFEST).is_file():
        texts = build(name, ("torch",), expression)
        try:
            write(texts, folder)
        except OSError:
            if not (folder / MANIFEST).is_file():  # otherwise another process has written the same package
                raise
    return folder


@cache
def _generator_digest() -> str:
    """Return the SHA-256 of the sources that determine a package."""
    import codegen
    import derive

    digest = hashlib.sha256()
    for room in (derive, codegen):
        folder = Path(cast(str, room.__file__)).parent
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".jinja")):
            digest.update(
                f"{path.relative_to(folder.parent)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
    return digest.hexdigest()


def _imported(folder: Path) -> ModuleType:
    """Import the package in a folder under a unique name."""
    if folder.name in sys.modules:
        return sys.modules[folder.name]
    spec = importlib.util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[folder.name] = module
    spec.loader.exec_module(module)
    return module
