"""Replace a folder atomically: at every moment the path holds either the old folder or the new one, complete."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_WORKING_FOLDER, _EXCHANGE = -100, 2  # Linux's AT_FDCWD and RENAME_EXCHANGE


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder next to ``folder``, which replaces it when the block ends; if the block fails, it is removed.

    Raises OSError if no folder can be made next to ``folder``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new.", dir=folder.parent))
    try:
        staging.chmod(0o755)
        yield staging
        for place in [staging, *(path for path in staging.rglob("*") if path.is_dir())]:
            sync_folder(place)
        put_in_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, folder: Path) -> None:
    """Move ``staging`` to ``folder`` and remove the old folder; both must be on one file system.

    On Linux the two names are exchanged in one step. On other systems, and on file systems without this exchange, the
    old folder is renamed first: a process killed between the two renames leaves it under a name that starts with a dot.
    """
    if not folder.exists():
        os.replace(staging, folder)
    elif exchange(staging, folder):
        shutil.rmtree(staging, ignore_errors=True)
    else:
        _in_two_steps(staging, folder)
    sync_folder(folder.parent)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return whether the system supports it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no such call in this system's C library
        return False
    here = _AT_WORKING_FOLDER
    return bool(rename(here, os.fsencode(first), here, os.fsencode(second), _EXCHANGE) == 0)


def _in_two_steps(staging: Path, folder: Path) -> None:
    retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, retired)
    try:
        os.replace(staging, folder)
    except OSError:
        os.replace(retired, folder)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, on systems that can open a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
