"""The code blocks of a Markdown page, and how to run them in order.

```python                    run; each `# prints: ...` is a line of its output, in order
```toml title="x.toml"       written as that file; so is any other block with a title
```bash                      every line must succeed
```text                      after bash: the last command must print each of these lines
```sh                        shown, not run: it needs machines that are not here
<!-- slow -->                on the line before a block: skipped where only quick blocks are run
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import affdiv

KINDS = {"python", "bash", "text", "sh", "toml", "math", "bibtex", ""}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its file name or "", its content, and whether it takes long."""

    language: str
    title: str
    body: str
    slow: bool


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'^(<!-- slow -->\n)?```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', text, flags=re.M | re.S)
    assert len(found) == text.count("\n```") / 2, f"{page}: a block that is not read"
    return [Block(language, title, body, bool(slow)) for slow, language, title, body in found]


def run_page(page: Path, folder: Path, environment: Mapping[str, str], *, quick: bool) -> None:
    """Run a page's blocks in ``folder``, the working directory; with ``quick``, without the slow ones."""
    names: dict[str, Any] = {"__name__": "page"}
    printed: list[str] = []
    for block in blocks(page):
        assert block.language in KINDS, block.language
        if block.slow and quick:
            continue
        if block.title:
            (folder / block.title).write_text(block.body, encoding="utf-8")
        elif block.language == "python":
            run_python(block.body, names)
        elif block.language == "bash":
            printed = [run_command(line, folder, environment, apart=block.slow) for line in commands(block.body)]
        elif block.language == "text" and printed:
            shown = [" ".join(line.split()) for line in printed[-1].splitlines()]
            assert [line for line in block.body.splitlines() if " ".join(line.split()) not in shown] == []
            printed = []


def run_python(code: str, names: dict[str, Any]) -> None:
    """Run code with the page's variables; it must print what its comments say."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        exec(compile(code, "<page>", "exec"), names)
    assert stream.getvalue().splitlines() == re.findall(r"# prints: (.*)$", code, flags=re.M)


def commands(body: str) -> list[str]:
    """Return the lines of a bash block without their comments."""
    return [line for line in (re.sub(r"\s#.*$", "", line).strip() for line in body.splitlines()) if line]


def run_command(line: str, folder: Path, environment: Mapping[str, str], *, apart: bool) -> str:
    """Run a line that must succeed and return its output; run ``affdiv`` in this process, unless ``apart``."""
    words = shlex.split(line)
    if not apart and words[0] == "affdiv" and not {"&&", ">", "|"} & set(words):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            code = affdiv.run(words[1:])
        assert code == 0, line
        return stream.getvalue()
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def with_affdiv(folder: Path, root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which ``affdiv`` and ``python`` are the ones under test."""
    folder.mkdir()
    for name, target in {
        "affdiv": f'"{sys.executable}" "{root / "affdiv.py"}"',
        "python": f'"{sys.executable}"',
    }.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {target} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    path = os.pathsep.join([str(folder), environment["PATH"]])
    return {**environment, "PATH": path, "PYTHONPATH": str(root), "COLUMNS": "80", "NO_COLOR": "1"}
