"""The process that runs cases: it records each case before running it, so that a crash can be attributed."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

from verify.fuzz.case import Case
from verify.fuzz.maps import LayerFile, Problem, convolution, rows, wait_for_the_compiler

_KEPT = 400  # characters at either end of a message


def main(first: int, count: int, notes: Path, maps: str) -> None:
    """Run cases of these maps; write one line per failure, and the number of each case before it starts."""
    warnings.simplefilter("ignore")
    wait_for_the_compiler("affine_divergence")
    with tempfile.TemporaryDirectory() as folder, (notes / "wrong.jsonl").open("w") as wrong:
        makers = [_maker(name, Path(folder)) for name in maps.split(",")]
        at = (notes / "at").open("w")
        for number in range(first, first + count):
            at.seek(0)
            at.write(f"{number:12d}")
            at.flush()
            case = Case(number, makers)
            try:
                found = case.wrong()
            except Exception as problem:  # any exception that is not ours is a failure
                found = f"{type(problem).__name__}: {problem}"
            if found:
                wrong.write(json.dumps({"case": number, "what": str(case), "wrong": _shortened(found)}) + "\n")
                wrong.flush()
        at.close()
    (notes / "done").write_text("done\n")


def _shortened(text: str) -> str:
    """Return a text with its middle cut out: the start of a message says what failed, the end often why."""
    return text if len(text) <= 2 * _KEPT else f"{text[:_KEPT]} .. {text[-_KEPT:]}"


def _maker(name: str, folder: Path) -> Callable[[Random], Problem]:
    return LayerFile(folder) if name == "file" else {"rows": rows, "convolution": convolution}[name]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
