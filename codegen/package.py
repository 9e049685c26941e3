"""Write and check a generated package: all files at once, or none.

``write`` builds the package in a folder beside its destination, flushes it to disk, and puts it in place by renaming,
so that a process killed at any moment leaves a whole package: the old one, or the new. ``check`` compares what stands
there with what would be written.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import keyword
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from codegen.plan import plan
from codegen.targets.torch.target import files
from codegen.targets.torch.words import Family
from derive.cancel import solve
from derive.errors import UsageError
from derive.layers import layer
from derive.record import CancellingMap

SCHEMA = "affdiv.package/1"
DEFAULT_PACKAGE = "affine_divergence"
MANIFEST = "manifest.json"


def build(package: str = DEFAULT_PACKAGE) -> dict[str, str]:
    """Derive the maps and return the text of every file by its name; the mathematics comes from ``derive.solve``."""
    return render(families(solve(layer("affine")), solve(layer("linear"))), package)


def families(with_bias: Iterable[CancellingMap], without_bias: Iterable[CancellingMap]) -> tuple[Family, ...]:
    """Pair the maps of the affine layer with those of the same name of the layer without a bias, sorted by name."""
    bare = {m.name: plan(m) for m in without_bias}
    found = [Family(m.name, plan(m), bare.get(m.name)) for m in with_bias]
    return tuple(sorted(found, key=lambda f: f.name))


def render(chosen: Sequence[Family], package: str = DEFAULT_PACKAGE) -> dict[str, str]:
    """Return the text of every file of a package of these families, its manifest included."""
    check_name(package)
    texts = dict(sorted(files(chosen).items()))
    manifest = {
        "schema": SCHEMA,
        "package": package,
        "derivations": {p.layer.name: p.digest for family in chosen for p in family.plans},
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    texts[MANIFEST] = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    return texts


def check_name(package: str) -> None:
    """Raise ``UsageError`` unless ``package`` can be imported and hides no module of Python or of this project."""
    if not package.isidentifier() or not package.isascii() or keyword.iskeyword(package):
        raise UsageError(f"package name {package!r} is not an identifier; use letters, digits and underscores")
    taken = {
        *sys.stdlib_module_names,
        *sys.builtin_module_names,
        "torch",
        "derive",
        "codegen",
        "verify",
        "tests",
        "affdiv",
    }
    if package.lower() in {name.lower() for name in taken}:
        raise UsageError(f"package name {package!r} would hide the module of that name; choose another")


def differences(texts: dict[str, str], folder: Path) -> list[str]:
    """Return what differs between ``texts`` and the folder: files missing or not ours first, then unified diffs."""
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
    """Every file below the folder but Python's own caches."""
    if not folder.is_dir():
        return []
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def write(texts: dict[str, str], folder: Path) -> None:
    """Replace the folder by one that holds exactly ``texts``; raise ``UsageError`` for a place that cannot be written.

    A folder that holds files and no manifest of ours is never replaced.
    """
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new.", dir=folder.parent))
    except OSError as problem:
        raise UsageError(
            f"cannot write beside {folder}: {problem.strerror}; choose a folder that you may write to"
        ) from None
    try:
        for name, text in texts.items():
            _write_file(staging / name, text)
        staging.chmod(0o755)
        _sync_folder(staging)
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder")
    if _our_files(folder) and not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} holds files but no {MANIFEST} of ours; choose an empty folder, or remove it first")


def _write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some systems cannot open a folder; the renames below are still atomic
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(staging: Path, folder: Path) -> None:
    """Put the staged folder in the old one's place."""
    if not folder.exists():
        os.replace(staging, folder)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, retired)
    try:
        os.replace(staging, folder)
    except OSError:
        os.replace(retired, folder)
        raise
    shutil.rmtree(retired, ignore_errors=True)
    _sync_folder(folder.parent)
