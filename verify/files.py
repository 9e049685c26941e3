"""Paths given by the user: expand home folders, check output folders before the work, and create them after it.

An impossible file name is rejected at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from derive.errors import UsageError


def expanded(text: str) -> Path:
    """Return the path that a text names, with ``~`` and ``~user`` expanded; UsageError if no such path can exist."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (RuntimeError, ValueError, OSError) as problem:
        raise UsageError(f"{text!r} is not a valid path ({problem}); write the full path") from None
    return path


def check_folder(folder: Path, names: Iterable[str], option: str = "--out") -> None:
    """Raise UsageError unless the named files can be written into the folder, which may not exist yet.

    Creates nothing. ``option`` is the command-line option that the message names.
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
    """Create the folder and its parents; raise UsageError, which names the option, if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise _refusal(folder, problem, option) from problem


def _refusal(folder: Path, problem: OSError, option: str) -> UsageError:
    reason = problem.strerror or problem
    return UsageError(f"output folder {str(folder)!r} cannot be written: {reason}; name another folder with {option}")
