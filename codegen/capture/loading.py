"""``MODULE:NAME``: import what a user names; the text is never evaluated."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from derive.errors import UsageError

_LIBRARY = str(Path(traceback.__file__).parent)
_ROOM = str(Path(__file__).parent)


def load(words: str) -> Callable[..., Any]:
    """Return the function or class named by ``MODULE:FACTORY``; the working folder is on the path.

    Raises UsageError for text of another form, a module that cannot be imported, or a name that is no function.
    """
    module_name, colon, name = words.partition(":")
    parts = module_name.split(".")
    if not colon or not all(part.isidentifier() for part in [*parts, *name.split(".")]):
        raise UsageError(f"{words!r} is not of the form MODULE:FACTORY; write for example my_project.models:make")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name and (module_name == problem.name or module_name.startswith(f"{problem.name}.")):
            raise UsageError(
                f"no module {module_name!r} in {here} or among the installed packages; name a module as in import"
            ) from problem
        raise UsageError(f"module {module_name!r} cannot be imported: {first_line(problem)}") from problem
    except (Exception, SystemExit) as problem:
        raise UsageError(f"module {module_name!r} cannot be imported: {where(problem)}") from problem
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        what = "has no" if found is None else "holds a value, not a function, in"
        hint = f"; functions and classes there: {', '.join(known[:8])}" if known else ""
        raise UsageError(f"module {module_name!r} {what} {name!r}{hint}")
    return found


def where(problem: BaseException, *own_files: str) -> str:
    """Return the first line of an exception's message and the last line outside the libraries in its traceback."""
    skipped = ("<", _ROOM, _LIBRARY, *own_files)
    frames = traceback.extract_tb(problem.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(skipped)]
    return first_line(problem) + (f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else "")


def first_line(problem: BaseException) -> str:
    """Return the class of an exception and the first line of its message."""
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else 'no message'}"
