"""From a LaTeX file to a PDF with pdfLaTeX, in a folder of its own and without shell escape."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from derive.errors import UsageError

FIGURES = "figures"  # the folder of pictures beside a document
_RUNS = 2  # the second fills in the references
_SECONDS = 240
_WARNINGS = re.compile(r"^(?:Overfull \\hbox \((?P<points>[\d.]+)pt).*$", re.MULTILINE)


def compile_pdf(tex_path: Path) -> Path:
    """Compile a LaTeX file, which may use the folder ``figures`` beside it; return the path of the PDF beside it.

    Raises UsageError if pdfLaTeX is missing, fails or takes too long; the text names the first error.
    """
    tex_path = Path(tex_path)
    with tempfile.TemporaryDirectory(prefix="affdiv-") as folder:
        run_pdflatex(tex_path, Path(folder))
        target = tex_path.with_suffix(".pdf")
        beside = target.with_name(target.name + ".part")
        shutil.copyfile(Path(folder) / "document.pdf", beside)
        os.replace(beside, target)
    return target


def needed_program() -> str:
    """Return the path of pdfLaTeX; raise UsageError, which says how to install it, if it is missing."""
    program = shutil.which("pdflatex")
    if program is None:
        raise UsageError(
            "pdflatex was not found; install TeX (Debian: apt-get install texlive-latex-base) or leave out --pdf"
        )
    return program


def run_pdflatex(tex_path: Path, folder: Path) -> str:
    """Run pdfLaTeX twice in ``folder`` (as ``document.tex``) and return the log of the last run."""
    program = needed_program()
    shutil.copyfile(tex_path, folder / "document.tex")
    if (tex_path.parent / FIGURES).is_dir() and tex_path.parent != folder:
        shutil.copytree(tex_path.parent / FIGURES, folder / FIGURES)
    command = [program, "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    for _ in range(_RUNS):
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise UsageError(f"pdflatex took longer than {_SECONDS} s on {tex_path}") from None
        log = (folder / "document.log").read_text(encoding="utf-8", errors="replace")
        if done.returncode:
            first = next((line for line in log.splitlines() if line.startswith("!")), "no message")
            raise UsageError(f"pdflatex stopped on {tex_path}: {first}")
    return log


def overfull_points(log: str) -> list[float]:
    """Return the overhang of each overfull box in a log, in points."""
    return [float(match["points"]) for match in _WARNINGS.finditer(log)]
