"""README.md is right: its commands run, its code prints what it claims, and its links exist.

The two set-up commands need fresh virtual environments: ``.ci/run`` runs them, and a test keeps the two the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import with_affdiv

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
NOTES = sorted((ROOT / "paper_notes").glob("*.md"))
SETUP = "python3 -m venv"
LONG = ("affdiv run",)
MOST_LINES = 150

Block = tuple[str, str]


def blocks() -> list[Block]:
    """The fenced blocks of the README as (language, body), in order."""
    text = README.read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)


def commands() -> list[str]:
    """Every different command of the bash blocks, without its comment."""
    lines = [line for language, body in blocks() if language == "bash" for line in body.splitlines()]
    return [line for line in dict.fromkeys(line.split("#")[0].strip() for line in lines) if line]


SET_UP = [line for line in commands() if line.startswith(SETUP)]
USE = [line for line in commands() if not line.startswith((SETUP, ".ci/run"))]
PYTHON = [body for language, body in blocks() if language == "python"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with the ``affdiv`` and ``python`` under test, a copy of the product and the README's layer file.

    The README's Python writes that file, and its commands read it.
    """
    written = re.search(r'Path\("(.*?)"\).write_text\("""\n(.*?)"""\)', README.read_text(encoding="utf-8"), flags=re.S)
    assert written
    (tmp_path / written[1]).write_text(written[2], encoding="utf-8")
    shutil.copytree(
        ROOT / "affine_divergence", tmp_path / "affine_divergence", ignore=shutil.ignore_patterns("__pycache__")
    )
    return with_affdiv(tmp_path / "bin", ROOT, os.environ)


def call(arguments: list[str], cwd: Path, environment: dict[str, str]) -> str:
    """Run a process that must succeed and return what it printed."""
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_set_up_commands_are_the_ones_that_continuous_integration_runs() -> None:
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    assert len(SET_UP) == 2
    assert [line for line in script if line.startswith(SETUP)] == SET_UP[::-1]


def slow_if_long(command: str) -> object:
    return pytest.param(command, marks=pytest.mark.slow) if command.startswith(LONG) else command


@pytest.mark.parametrize("command", [slow_if_long(command) for command in USE])
def test_command_runs(command: str, tmp_path: Path, environment: dict[str, str]) -> None:
    call(["bash", "-c", command], tmp_path, environment)


def test_it_is_short_and_shows_five_examples_and_a_figure() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert re.findall(r"^\*\*(\d)\.", text, flags=re.M) == list("12345")
    assert text.count("![") == 1


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_prints_what_its_comments_say(code: str, tmp_path: Path, environment: dict[str, str]) -> None:
    printed = call([sys.executable, "-W", "error", "-c", code], tmp_path, environment)
    assert printed.splitlines() == re.findall(r"# prints: (.*)$", code, flags=re.M)


@pytest.mark.parametrize(
    "page", [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *NOTES], ids=lambda page: page.name
)
def test_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_reference_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "paper_notes/related.bib").read_text(encoding="utf-8"), flags=re.M))
    cited = {
        key for page in NOTES for key in re.findall(r"`([a-z]+\d{4}[a-z]+|[a-z]+cnn\d{4})`", page.read_text("utf-8"))
    }
    assert cited == keys


def test_the_bibliography_names_each_entry_once_and_titles_it() -> None:
    text = (ROOT / "paper_notes/related.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),(.*?)^\}", text, flags=re.M | re.S)
    assert len({key for key, _ in entries}) == len(entries) == text.count("@")
    assert [key for key, body in entries if "title" not in body or "year" not in body] == []
    assert text.count("{") == text.count("}")
