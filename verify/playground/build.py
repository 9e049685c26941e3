"""Assemble the playground: the page, the worker, the list of layers, Pyodide and the Python archive."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from codegen.atomic_replace import replacing
from derive.atlas import FOLDER, GROUPS
from derive.errors import UsageError
from derive.export.summary import CHAPTERS
from derive.spec import loads_spec
from verify.playground.bundle import archive
from verify.playground.pyodide import fetched

PAGE = Path(__file__).with_name("page")
MARK = "playground.json"  # marks a folder as a playground that may be replaced
STARTER = """\
name = "my_layer"
sizes = ["n", "m"]
[input]
x = ["n"]
[parameters]
W = ["m", "n"]
b = ["m"]
[output]
z = ["m"]
formula = "z[i] = sum[j](W[i, j] * x[j]) + b[i]"
"""


def build(folder: Path, pyodide: Path | None = None) -> list[str]:
    """Write the playground to ``folder``, atomically replacing an earlier one; return the names of its files.

    Raises:
        UsageError: Pyodide is not available, or the folder holds something else.
    """
    if folder.exists() and not (folder / MARK).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} is not empty and not a playground; name another folder with -o")
    files = {f"pyodide/{name}": content for name, content in fetched(pyodide).items()}
    files |= {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.is_file()}
    files |= {"python.zip": archive(), "layers.json": _json(choices())}
    python = "{}.{}".format(*sys.version_info[:2])
    files[MARK] = _json({"schema": "affdiv.playground/1", "python": python})
    with replacing(folder) as staging:
        for name, content in files.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_bytes(content)
    return sorted(files)


def choices() -> list[dict[str, Any]]:
    """Return the layers to choose from, by group, each with its text for the editor."""
    named = [name for name in CHAPTERS if ">" not in name]
    composed = [name for name in CHAPTERS if ">" in name]
    groups = [
        {"group": "Start here", "layers": [{"title": "a layer of your own", "text": STARTER}]},
        {"group": "Layers", "layers": [{"title": name, "text": name} for name in named]},
        {"group": "Compositions", "layers": [{"title": name, "text": name} for name in composed]},
    ]
    return [
        *groups,
        *({"group": group, "layers": [_of_atlas(name) for name in names]} for group, names in GROUPS.items()),
    ]


def _of_atlas(name: str) -> dict[str, str]:
    text = (FOLDER / f"{name.replace('-', '_')}.toml").read_text(encoding="utf-8")
    return {"title": loads_spec(text).title, "text": text}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
