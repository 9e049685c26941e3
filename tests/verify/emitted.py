"""Find files of a generated package by their role, so that tables of edits do not depend on the layout."""

from pathlib import Path

TARGETS = ("torch", "triton", "cuda", "cpp")


def emitted(package: Path, target: str, name: str) -> Path:
    """Return a file of the package: of a target, such as ("cpp", "affine_like.cpp"), "public", or else "runtime".

    Raises AssertionError unless there is exactly one such file.
    """
    if target == "public":
        return package / name
    flat = package / (f"_{name}" if target in ("torch", "runtime") else f"_{target}_{name}")
    found = [flat] if flat.is_file() else []
    for path in sorted(package.glob(f"*/**/{name}")):
        homes = path.relative_to(package).parts[:-1]
        own = next((home for home in homes if home in TARGETS), "runtime")
        found += [path] if own == target else []
    assert len(found) == 1, f"{target} {name}: {[str(path.relative_to(package)) for path in found]}"
    return found[0]
