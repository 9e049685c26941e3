"""Fetch Pyodide, Python for browsers, from the npm registry, in the version of the running Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from derive.errors import UsageError

VERSIONS = {(3, 11): "0.25.1", (3, 12): "0.27.7", (3, 13): "0.29.3", (3, 14): "314.0.7"}
"""The Pyodide version for each Python version; bytecode of one does not run in another."""
_FILES = (
    "pyodide.mjs",
    "pyodide.asm.js",
    "pyodide.asm.mjs",
    "pyodide.asm.wasm",
    "python_stdlib.zip",
    "pyodide-lock.json",
)
_SECONDS = 240


def version() -> str:
    """Return the version of Pyodide with the running Python's version; UsageError if there is none."""
    found = VERSIONS.get(sys.version_info[:2])
    if found is None:
        here, known = "{}.{}".format(*sys.version_info[:2]), ", ".join("{}.{}".format(*key) for key in VERSIONS)
        raise UsageError(f"no Pyodide is known for Python {here}; run this with one of {known}")
    return found


def fetched(folder: Path | None = None) -> dict[str, bytes]:
    """Return Pyodide's files by name, from a folder or from the npm registry.

    Raises:
        UsageError: npm is missing, the registry does not respond, or files are missing; the text names the fix.
    """
    if folder is not None:
        return _found({path.name: path.read_bytes() for path in folder.iterdir() if path.name in _FILES}, str(folder))
    with tempfile.TemporaryDirectory(prefix="affdiv-") as name, tarfile.open(_packed(Path(name))) as package:
        members = {Path(m.name).name: m for m in package if m.isfile() and m.name.count("/") == 1}
        own = {name: package.extractfile(member) for name, member in members.items() if name in _FILES}
        return _found({name: file.read() for name, file in own.items() if file}, "the package of npm")


def _packed(folder: Path) -> Path:
    """Download the package into the folder with npm, which verifies its digest."""
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError("npm was not found; install it (Debian: apt-get install npm), or give --pyodide FOLDER")
    wanted = f"pyodide@{version()}"
    command = [npm, "pack", wanted, "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise UsageError(f"the npm registry did not give {wanted} within {_SECONDS} s; give --pyodide FOLDER") from None
    packages = sorted(folder.glob("*.tgz"))
    if done.returncode or not packages:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"the npm registry did not give {wanted} ({last}); give --pyodide FOLDER")
    return packages[0]


def _found(files: dict[str, bytes], where: str) -> dict[str, bytes]:
    """Return the files if they are complete; the WebAssembly program has either of two names."""
    program = {"pyodide.asm.js", "pyodide.asm.mjs"}
    missing = [name for name in _FILES if name not in files and name not in program]
    if missing or not program & set(files):
        raise UsageError(f"{where} has no {', '.join(missing or sorted(program))}; give --pyodide a folder of Pyodide")
    return files
