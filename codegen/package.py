"""Write and check a generated package: all files at once, or none.

``write`` builds the package in a folder next to its destination, flushes it to disk, and renames it into place, so that
a process killed at any moment leaves a complete package: the old one or the new one. ``differences`` compares the
folder with what would be written.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import keyword
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from codegen.atomic_replace import replacing
from codegen.targets.base import TARGETS
from derive.errors import UsageError

SCHEMA = "affdiv.package/1"
DEFAULT_PACKAGE = "affine_divergence"
MANIFEST = "manifest.json"


def packed(texts: dict[str, str], facts: dict[str, object]) -> dict[str, str]:
    """Return the files of a package sorted by name, plus the manifest: ``facts`` and a digest of each file."""
    found = dict(sorted(texts.items()))
    files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in found.items()}
    return found | {MANIFEST: json.dumps({"schema": SCHEMA, **facts, "files": files}, indent=2, sort_keys=True) + "\n"}


def check_name(package: str) -> None:
    """Raise ``UsageError`` unless ``package`` is an identifier that hides no other module's name."""
    if not package.isidentifier() or not package.isascii() or keyword.iskeyword(package):
        raise UsageError(f"package name {package!r} is not an identifier; use letters, digits and underscores")
    libraries = {"torch", "numpy", "sympy", *(t.library.partition(".")[0] for t in TARGETS)}
    rooms = {"derive", "codegen", "verify", "tests", "affdiv"}
    taken = {*sys.stdlib_module_names, *sys.builtin_module_names, *libraries, *rooms}
    if package.lower() in {name.lower() for name in taken}:
        raise UsageError(f"package name {package!r} would hide the module of that name; choose another")


def differences(texts: dict[str, str], folder: Path) -> list[str]:
    """Return how the folder differs from ``texts``: files missing or not generated first, then unified diffs."""
    present = {p.relative_to(folder).as_posix() for p in _our_files(folder)}
    lines = [f"missing: {name}" for name in sorted(texts.keys() - present)]
    lines += [f"not generated: {name}" for name in sorted(present - texts.keys())]
    for name in sorted(texts.keys() & present):
        there = (folder / name).read_bytes().decode("utf-8", errors="replace")
        if there != texts[name]:
            old, new = there.splitlines(keepends=True), texts[name].splitlines(keepends=True)
            diff = difflib.unified_diff(old, new, f"{folder.name}/{name} (there)", f"{folder.name}/{name} (generated)")
            lines += [line.rstrip("\n") for line in diff]
    return lines


def _our_files(folder: Path) -> list[Path]:
    """Every file below the folder except Python's caches."""
    if not folder.is_dir():
        return []
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def write(texts: dict[str, str], folder: Path) -> None:
    """Replace the folder by one that holds exactly ``texts``; raise ``UsageError`` if it cannot be written.

    A folder with a file that was not generated is never replaced.
    """
    _refuse_foreign(folder, texts)
    with ExitStack() as stack:
        try:
            staging = stack.enter_context(replacing(folder))
        except OSError as problem:
            raise UsageError(
                f"cannot write next to {folder}: {problem.strerror}; choose a folder that you may write to"
            ) from None
        for name, text in texts.items():
            _write_file(staging / name, text)


def _refuse_foreign(folder: Path, texts: dict[str, str]) -> None:
    """Raise ``UsageError`` if the folder has a file that neither its manifest nor ``texts`` lists."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder")
    known = {*texts, *_listed(folder)} if (folder / MANIFEST).is_file() else set()
    foreign = sorted({p.relative_to(folder).as_posix() for p in _our_files(folder)} - known)
    if foreign:
        raise UsageError(f"{folder} holds {foreign[0]}, which was not generated; move it away or choose another folder")


def _listed(folder: Path) -> list[str]:
    """Return the files that a folder's manifest lists; none if it cannot be read."""
    try:
        return list(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
