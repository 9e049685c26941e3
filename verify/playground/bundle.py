"""Bundle the playground's Python code as one archive of bytecode: derive, codegen, their libraries, the answers.

A browser takes minutes to compile SymPy and a second to load its bytecode. Bytecode is specific to a Python version, so
the bundled Pyodide has the same version as the Python that builds the archive. The libraries are the installed ones,
which the tests cover. Not bundled: tests, modules not needed for the mathematics, compiled extensions.
"""

from __future__ import annotations

import importlib.metadata
import io
import py_compile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import codegen
import derive
from derive.errors import UsageError

LIBRARIES = ("sympy", "mpmath", "jinja2", "markupsafe", "latex2mathml")
_LEFT_OUT = ("/tests/", "/benchmarks/", "__pycache__")
_KEPT = (".py", ".json", ".txt", ".toml", ".jinja", ".h", ".cuh")
_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date makes the archive reproducible
ANSWERS = Path(__file__).with_name("answers.py")


def archive() -> bytes:
    """Return the archive; UsageError if a library is not installed."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, path in sorted(_files()):
            member, content = _compiled(name, path)
            bundle.writestr(zipfile.ZipInfo(member, _DATE), content, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    """Yield the files of the archive: name in the archive, and path."""
    for library in LIBRARIES:
        try:
            listed = importlib.metadata.distribution(library).files or ()
        except importlib.metadata.PackageNotFoundError:
            raise UsageError(f"{library} is not installed here; install the project with its requirements") from None
        for file in listed:
            if (_wanted(str(file)) and not str(file).startswith("..")) or file.name == "METADATA":
                yield str(file), Path(str(file.locate()))
    for room in (derive, codegen):
        home = Path(str(room.__file__)).parent
        for path in home.rglob("*"):
            name = path.relative_to(home.parent).as_posix()
            if path.is_file() and _wanted(name):
                yield name, path
    yield ANSWERS.name, ANSWERS


def _wanted(name: str) -> bool:
    return name.endswith(_KEPT) and not any(part in f"/{name}" for part in _LEFT_OUT)


def _compiled(name: str, path: Path) -> tuple[str, bytes]:
    """Return a module as bytecode without source; other files, and those that packages copy, unchanged."""
    content = path.read_bytes()
    if not name.endswith(".py") or "runtime" in Path(name).parts:
        return name, content
    never_compared = py_compile.PycInvalidationMode.UNCHECKED_HASH  # there is no source to compare with
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "module.pyc"
        py_compile.compile(str(path), str(made), name, doraise=True, invalidation_mode=never_compared)
        return f"{name}c", made.read_bytes()
