"""The generated package under verification: the project's own, or the folder given by ``--package``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from derive.errors import UsageError

_OWN = "affine_divergence"
_NEEDED = ("modules.py", "patch_modules.py", "attention.py", "self_factors.py")
_chosen: list[str] = [_OWN]
_numbers = itertools.count(1)


def package() -> ModuleType:
    """Return the package under verification."""
    return importlib.import_module(_chosen[-1])


def part(name: str) -> ModuleType:
    """Return a module of the package under verification, such as ``functional`` or ``runtime.rows``."""
    return importlib.import_module(f"{_chosen[-1]}.{name}")


def holds_kernels(backend: str) -> bool:
    """Return whether the package under verification contains kernels for a target."""
    return any((Path(folder) / "kernels" / backend).is_dir() for folder in package().__path__)


@contextmanager
def verifying(folder: Path | None) -> Iterator[None]:
    """Verify the package in a folder inside the context; None means the project's own.

    The package is imported under a unique name, so that it does not replace the project's own. Raises UsageError if the
    folder holds no generated package with the standard layers.
    """
    if folder is None:
        yield
        return
    missing = [name for name in ("__init__.py", *_NEEDED) if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"--package {str(folder)!r}: {missing[0]} is missing; name a folder that `affdiv generate --out` wrote "
            "with the standard layers"
        )
    name = _name(folder)
    _import(name, folder)
    try:
        with _choosing(name):
            yield
    finally:
        for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[loaded]


@contextmanager
def concerning(module: ModuleType | None) -> Iterator[None]:
    """Verify an imported package inside the context; None changes nothing."""
    if module is None:
        yield
        return
    with _choosing(module.__name__):
        yield


def imported(folder: Path, option: str = "--package") -> ModuleType:
    """Import the package in a folder afresh, under a unique name.

    Raise UsageError, which names the ``option``, if it cannot be imported.
    """
    name = f"{_name(folder, option)}_{next(_numbers)}"
    _import(name, folder, option)
    return sys.modules[name]


@contextmanager
def _choosing(name: str) -> Iterator[None]:
    _chosen.append(name)
    try:
        yield
    finally:
        _chosen.pop()


def _name(folder: Path, option: str = "--package") -> str:
    """Return the unique name under which a package is imported."""
    name = f"{folder.name}_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
    if not name.isidentifier():
        raise UsageError(f"{option} {str(folder)!r}: {folder.name!r} is not a valid package name; rename the folder")
    return name


def _import(name: str, folder: Path, option: str = "--package") -> None:
    if not (folder / "__init__.py").is_file():
        raise UsageError(f"{option} {str(folder)!r} holds no package; name a folder that `affdiv generate --out` wrote")
    place = [str(folder.resolve())]
    found = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=place)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[name]
        raise UsageError(
            f"{option} {str(folder)!r} cannot be imported: {type(problem).__name__}: {problem}"
        ) from problem
