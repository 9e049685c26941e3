"""Paths that a user gives: a home folder looked up, an output folder refused before the work is done or created after.

A name that no file can have is refused where it is given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from derive.errors import UsageError


def expanded(text: str) -> Path:
    """Return the path that a text names, ``~`` and ``~user`` looked up; UsageError for one that there cannot be."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (RuntimeError, ValueError, OSError) as problem:
        raise UsageError(f"{text!r} names no path ({problem}); write the whole path") from None
    return path


def check_folder(folder: Path, names: Iterable[str], option: str = "--out") -> None:
    """Raise UsageError unless the named files can be written into the folder, which need not exist yet.

    Leaves nothing behind. ``option`` is what the message asks to change.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        what = (
            f"output folder {str(folder)!r}"
            if existing == folder
            else f"{str(existing)!r}, where the output should go,"
        )
        raise UsageError(f"{what} is a file, not a folder; name another folder with {option}, or move the file away")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as problem:
        raise _refusal(folder, problem, option) from problem
    for name in names:
        if (folder / name).is_dir():
            raise UsageError(
                f"{str(folder / name)!r} is a folder where a file should go; move it away or choose another {option}"
            )


def make_folder(folder: Path, option: str = "--out") -> None:
    """Create the folder and its parents; raise UsageError, which names the option, where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise _refusal(folder, problem, option) from problem


def _refusal(folder: Path, problem: OSError, option: str) -> UsageError:
    reason = problem.strerror or problem
    return UsageError(f"output folder {str(folder)!r} cannot be written: {reason}; name another folder with {option}")
