"""Append the result of a test run to a table.

versions_row.py NAME JUNIT.xml SOURCE TABLE.md [PYTEST ARGUMENTS ..]
"""

from __future__ import annotations

import platform
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NAMES = ("torch", "triton", "numpy", "sympy", "scipy")
COLUMNS = ("environment", "Python", *NAMES, "tests", "passed", "failed", "skipped", "seconds", "commit")
HEAD = """# Versions

Results of the fast suite in each environment; `tests/versions.sh` builds them and appends a row. "all" means every test
that `pytest` runs without arguments; otherwise the column `tests` names what ran. Failed tests are listed below.
"""


def counts(junit: Path) -> tuple[int, int, int, float, list[str]]:
    """Return the numbers of passed, failed and skipped tests, the seconds, and the names of the failed tests."""
    suite = next(ElementTree.parse(junit).getroot().iter("testsuite"))
    total, bad, skipped = (int(suite.get(k, 0)) for k in ("tests", "failures", "skipped"))
    bad += int(suite.get("errors", 0))
    cases = [c for c in suite.iter("testcase") if c.find("failure") is not None or c.find("error") is not None]
    names = [f"{c.get('classname')}::{c.get('name')}" for c in cases]
    return total - bad - skipped, bad, skipped, float(suite.get("time", 0)), names


def installed(name: str) -> str:
    """Return the version of a distribution, or a dash."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def row(cells: tuple[str, ...]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def main(name: str, junit: str, source: str, table: str, *arguments: str) -> None:
    """Append the row, and the names of failed tests as a note, to the table; create the table if there is none."""
    passed, failed, skipped, seconds, names = counts(Path(junit))
    commit = subprocess.check_output(["git", "-C", source, "rev-parse", "--short", "HEAD"], text=True).strip()
    what = "`" + " ".join(arguments) + "`" if arguments else "all"
    numbers = (str(passed), str(failed), str(skipped), f"{seconds:.0f}", commit)
    cells = (name, platform.python_version(), *map(installed, NAMES), what, *numbers)
    empty = f"{HEAD}\n{row(COLUMNS)}\n{row(('---',) * len(COLUMNS))}\n"
    text = Path(table).read_text(encoding="utf-8") if Path(table).is_file() else empty
    above, mark, notes = text.partition("\n\nFailed in ")
    text = f"{above.rstrip()}\n{row(cells)}\n" + (mark + notes if mark else "")
    if names:
        text = f"{text.rstrip()}\n\nFailed in {name} at {commit}: {', '.join(f'`{n}`' for n in names)}.\n"
    Path(table).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
