"""``python -m verify.fuzz``: run the cases in a process with the sanitizers, and report failures."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_GOOD, _FAILED, _WRONG_USAGE = 0, 1, 2
_OPTIONS = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
_LIBRARIES = ("libasan.so", "libstdc++.so")
MAPS = ("rows", "convolution", "file")
_MIX = "rows,rows,convolution,convolution,file"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: one line per failure, and the sanitizer's report if it ended the process."""

    cases: int
    seconds: float
    wrong: list[str]
    report: str

    @property
    def good(self) -> bool:
        """Whether there was no failure."""
        return not self.wrong and not self.report


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return 0 without failures, 1 with failures, 2 if the sanitizers are missing."""
    parser = argparse.ArgumentParser(prog="python -m verify.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="number of cases (default 10000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case; a number determines its case")
    parser.add_argument("--maps", choices=MAPS, help="only cases of this kind (default: all)")
    parser.add_argument("--without-sanitizers", action="store_true", help="only compare results")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    given = parser.parse_args(arguments)
    lacking = "" if given.without_sanitizers else missing()
    if lacking:
        print(f"error: {lacking}", file=sys.stderr)
        return _WRONG_USAGE
    found = run(given.cases, given.first, maps=given.maps or _MIX, sanitized=not given.without_sanitizers)
    if given.json:
        print(json.dumps(asdict(found)))
    else:
        print("\n".join([*found.wrong, *found.report.splitlines()[-60:]]))
        print(f"{found.cases} cases in {found.seconds:.0f} s: {'all right' if found.good else 'something is wrong'}")
    return _GOOD if found.good else _FAILED


def missing() -> str:
    """Return what the sanitizers lack on this machine, with the fix, or an empty text."""
    if shutil.which("g++") and all(map(_library, _LIBRARIES)) and _library("libubsan.so"):
        return ""
    return "the sanitizers need g++ with libasan and libubsan (Debian: `apt install g++`); or run --without-sanitizers"


def run(
    cases: int, first: int = 0, *, maps: str = _MIX, sanitized: bool = True, package: Path | None = None
) -> Outcome:
    """Run cases on the kernels of the project's package, or of a copy with the same name in another folder.

    ``maps`` names the entries of `MAPS` to draw from; a repeated name is drawn more often.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        notes = Path(place)
        path = [str(p) for p in (package and package.parent, _ROOT) if p]
        environment = {
            **os.environ,
            "AFFINE_DIVERGENCE_CACHE": str(notes / "cache"),
            "PYTHONPATH": os.pathsep.join(path),
            **(_sanitizers(notes) if sanitized else {}),
        }
        command = [sys.executable, "-m", "verify.fuzz.worker", str(first), str(cases), str(notes), maps]
        done = subprocess.run(command, env=environment, cwd=notes, capture_output=True, text=True, check=False)
        wrong = [_line(text) for text in _text(notes / "wrong.jsonl").splitlines()]
        report = "" if (notes / "done").exists() else f"{done.stderr}\nended at case {_text(notes / 'at').strip()}"
    return Outcome(cases, time.monotonic() - start, wrong, report)


def _sanitizers(notes: Path) -> dict[str, str]:
    """Return the environment variables that compile kernels with the sanitizers and preload their libraries."""
    compiler = notes / "compiler"
    compiler.write_text(f'#!/bin/sh\nexec g++ "$@" {_OPTIONS}\n')
    compiler.chmod(0o755)
    return {
        "CXX": str(compiler),
        "LD_PRELOAD": " ".join(map(_library, _LIBRARIES)),
        "ASAN_OPTIONS": "detect_leaks=0",
    }


def _library(name: str) -> str:
    """Return the path of one of the compiler's libraries, or an empty text if there is none of that name."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=False).stdout
    return found.strip() if Path(found.strip()).is_absolute() else ""


def _line(text: str) -> str:
    found = json.loads(text)
    return f"case {found['case']}: {found['what']}: {found['wrong']}"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
