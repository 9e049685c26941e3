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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sympy import Expr

from codegen.atomic_replace import put_in_place, sync_folder
from codegen.coverage import covered
from codegen.plans.angles import angle_plan
from codegen.plans.rows import plan
from codegen.plans.solve_at import solve_at
from codegen.printing.naming import AngleFamily, Family
from codegen.targets.cpp import target as cpp_target
from codegen.targets.cuda import target as cuda_target
from codegen.targets.torch import target as torch_target
from codegen.targets.torch.companions import companions
from codegen.targets.triton import target as triton_target
from derive.cancel import solve
from derive.errors import UsageError
from derive.layers import layer
from derive.record import CancellingMap

SCHEMA = "affdiv.package/1"
DEFAULT_PACKAGE = "affine_divergence"
MANIFEST = "manifest.json"
_FILES: dict[str, Callable[[Sequence[Family], Sequence[AngleFamily]], dict[str, str]]] = {
    "torch": torch_target.files,
    "triton": triton_target.files,
    "cuda": cuda_target.files,
    "cpp": cpp_target.files,
}
TARGETS = tuple(_FILES)


def build(
    package: str = DEFAULT_PACKAGE, targets: Sequence[str] = TARGETS, angle: Expr | None = None
) -> dict[str, str]:
    """Derive the maps and return the text of every file by its name; the mathematics comes from ``derive.solve``.

    With ``angle``, t(r), the member of the family at that angle is one of the maps.
    """
    affine = layer("affine")
    angles = [] if angle is None else [AngleFamily(angle_plan(solve_at(affine, angle)["angle"]))]
    return render(families(solve(affine), solve(layer("linear"))), package, targets, angles)


def families(with_bias: Iterable[CancellingMap], without_bias: Iterable[CancellingMap]) -> tuple[Family, ...]:
    """Pair the maps of the affine layer with those of the same name of the layer without a bias, sorted by name."""
    bare = {m.name: plan(m) for m in without_bias}
    found = [Family(m.name, plan(m), bare.get(m.name)) for m in with_bias]
    return tuple(sorted(found, key=lambda f: f.name))


def render(
    chosen: Sequence[Family],
    package: str = DEFAULT_PACKAGE,
    targets: Sequence[str] = TARGETS[:1],
    angles: Sequence[AngleFamily] = (),
) -> dict[str, str]:
    """Return the text of every file of a package of these families, its manifest included."""
    check_name(package)
    check_targets(targets)
    texts = {name: text for target in targets for name, text in _FILES[target](chosen, angles).items()}
    texts = dict(sorted(texts.items()))
    digests = {p.layer.name: p.digest for family in chosen for p in family.plans}
    digests |= {p.layer.name: p.digest for family in angles for p in family.plans}
    digests |= companions(chosen).digests
    manifest = {
        "schema": SCHEMA,
        "package": package,
        "derivations": digests,
        "covers": covered(digests),
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    texts[MANIFEST] = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    return texts


def check_name(package: str) -> None:
    """Raise ``UsageError`` unless ``package`` can be imported and hides no module of Python or of this project."""
    if not package.isidentifier() or not package.isascii() or keyword.iskeyword(package):
        raise UsageError(f"package name {package!r} is not an identifier; use letters, digits and underscores")
    libraries = {"torch", "numpy", "sympy", "triton", "cuda"}
    rooms = {"derive", "codegen", "verify", "tests", "affdiv"}
    taken = {*sys.stdlib_module_names, *sys.builtin_module_names, *libraries, *rooms}
    if package.lower() in {name.lower() for name in taken}:
        raise UsageError(f"package name {package!r} would hide the module of that name; choose another")


def check_targets(targets: Sequence[str]) -> None:
    """Raise ``UsageError`` unless the targets are known and include plain PyTorch, which every package needs."""
    unknown = [t for t in targets if t not in TARGETS]
    if unknown or TARGETS[0] not in targets:
        raise UsageError(f"targets {','.join(targets)!r}: {TARGETS[0]} is needed, and known are: {', '.join(TARGETS)}")


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

    A folder that holds a file which was not generated is never replaced.
    """
    _refuse_foreign(folder, texts)
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
        sync_folder(staging)
        put_in_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(folder: Path, texts: dict[str, str]) -> None:
    """Refuse to replace a folder with a file that its manifest does not list and that is not about to be written."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder")
    known = {*texts, *_listed(folder)} if (folder / MANIFEST).is_file() else set()
    foreign = sorted({p.relative_to(folder).as_posix() for p in _our_files(folder)} - known)
    if foreign:
        raise UsageError(f"{folder} holds {foreign[0]}, which was not generated; move it away or choose another folder")


def _listed(folder: Path) -> list[str]:
    """Return the files that the manifest in a folder lists; none if it cannot be read."""
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
