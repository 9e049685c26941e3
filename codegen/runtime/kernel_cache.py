"""Compiled kernels on disk: one file a source, type and processor, in a folder that only its owner can write."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

VARIABLE = "AFFINE_DIVERGENCE_CACHE"
_CHECKSUM = 32  # bytes before the code


class KernelError(RuntimeError):
    """Kernels cannot be compiled, loaded or launched; the text says why and what to do."""


def folder() -> Path:
    """Return the folder of compiled kernels, made with mode 0700 if it is not there.

    It is named by the environment variable AFFINE_DIVERGENCE_CACHE, else ``affine-divergence`` in the user's cache
    folder, or for a user without a home a folder of the user's own among temporary files. Raise ``KernelError`` if it
    cannot be made, or if another user owns it or may write to it.
    """
    chosen = os.environ.get(VARIABLE)
    path = Path(chosen) if chosen else _usual()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as problem:
        raise KernelError(
            f"the cache folder {path} cannot be made ({problem.strerror}); name another in {VARIABLE}"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise KernelError(f"the cache folder {path} is no folder, or a link to one; name another in {VARIABLE}")
    if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        raise KernelError(
            f"the cache folder {path} is open to other users (mode {stat.S_IMODE(found.st_mode):o}), so code in it "
            f"could be theirs; run `chmod 700` on it, or name another in {VARIABLE}"
        )
    return path


def _usual() -> Path:
    """Return where the folder is if nothing names it."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "affine-divergence"
    except RuntimeError:  # neither HOME nor an entry among the system's users
        user = os.geteuid() if hasattr(os, "geteuid") else "user"
        return Path(tempfile.gettempdir(), f"affine-divergence-{user}")


def cached(key: str, make: Callable[[], bytes], kind: str = "cubin") -> bytes:
    """Return the code of a key, a name in hexadecimal: from the folder, or made and put there, by one process alone.

    Raise ``KernelError`` where the folder cannot be written to or is full.
    """
    path = folder() / f"{key}.{kind}"
    try:
        found = _read(path)
        if found is not None:
            return found
        with _lock(path.with_suffix(".lock")):
            found = _read(path)  # another process may have been faster
            if found is None:
                found = make()
                _write(path, found)
    except OSError as problem:
        raise KernelError(
            f"compiled kernels cannot be kept in {path.parent} ({problem.strerror or problem}); name another folder in "
            f"{VARIABLE}"
        ) from None
    return found


def _read(path: Path) -> bytes | None:
    """Return the code in a file; None if there is no such file, or a damaged one."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    code = whole[_CHECKSUM:]
    return code if hashlib.sha256(code).digest() == whole[:_CHECKSUM] else None


def _write(path: Path, code: bytes) -> None:
    """Put a whole file in place, never a part of one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock among processes: by ``filelock`` if it is there, else by the system, where it can."""
    try:
        with importlib.import_module("filelock").FileLock(path):
            yield
        return
    except ModuleNotFoundError:
        pass
    try:
        fcntl = importlib.import_module("fcntl")
    except ModuleNotFoundError:  # files are still put in place whole; at worst two processes compile the same
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
