"""The path of each file in the generated package, and imports relative to it.

    modules.py, functional.py, ..     what users import
    kernels/<target>/<map>.py         a map for a target; its kernels' file, if any, has the same name
    kernels/<target>/runtime/         shared by the files of one target, copied from ``targets/<target>/runtime``
    runtime/                          shared by all files, copied from ``codegen/runtime``

Templates import every module from the top of the package, as in ``from .kernels.torch.affine_like import AffineLike``;
``placed`` rewrites these imports for the file's folder, with one name per line if they are long. The imports of copied
files do not change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOM = Path(__file__).parents[1]
_IMPORT = re.compile(r"^( *)from \.([\w.]*) import (.*)$", flags=re.MULTILINE)
_WIDTH = 88  # of lines, ruff's default
RUNTIME = "runtime"


def folder_of(target: str) -> str:
    """Return the folder of a target's files in the package."""
    return f"kernels/{target}"


def placed(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the text of every file by its path, with imports from the top rewritten for the file's folder."""
    return {
        path: _from(Path(path).parent.parts, text) if path.endswith(".py") else text for path, text in texts.items()
    }


def _from(folder: Sequence[str], text: str) -> str:
    def relative(found: re.Match[str]) -> str:
        """Return one import rewritten for the folder, one name per line if it is too long."""
        module = found[2].split(".") if found[2] else []
        shared = 0
        while shared < min(len(folder), len(module)) and folder[shared] == module[shared]:
            shared += 1
        indent, names = found[1], found[3]
        home = "." * (len(folder) - shared + 1) + ".".join(module[shared:])
        whole = f"{indent}from {home} import {names}"
        if len(whole) <= _WIDTH or "(" in names:
            return whole
        lines = "".join(f"{indent}    {name},\n" for name in names.split(", "))
        return f"{indent}from {home} import (\n{lines}{indent})"

    return _IMPORT.sub(relative, text)


def in_folder(target: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the files of a target's folder by their paths, with ``placed`` imports."""
    return placed({f"{folder_of(target)}/{name}": text for name, text in texts.items()})


def folders() -> dict[str, str]:
    """Return the file that makes the folder of all targets importable."""
    return {"kernels/__init__.py": '"""The maps: one folder per target, one file per map in it."""\n'}


def folder(target: str, words: str) -> dict[str, str]:
    """Return the file that makes a target's folder importable; its docstring begins with ``words``."""
    return {f"{folder_of(target)}/__init__.py": f'"""{words}, a file a map."""\n'}


def shared_runtime(*names: str) -> dict[str, str]:
    """Return runtime files that all targets share, by their paths in the package."""
    return _copied(_ROOM / RUNTIME, RUNTIME, names)


def target_runtime(target: str, *names: str) -> dict[str, str]:
    """Return runtime files of one target, by their paths in the package."""
    return _copied(_ROOM / "targets" / target / RUNTIME, f"{folder_of(target)}/{RUNTIME}", names)


def _copied(origin: Path, place: str, names: Sequence[str]) -> dict[str, str]:
    return {f"{place}/{name}": (origin / name).read_text(encoding="utf-8") for name in ("__init__.py", *names)}
