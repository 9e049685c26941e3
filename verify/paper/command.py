"""``affdiv paper``: the whole project as one document. Its imports are deferred to the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verify.training.cli import Json

if TYPE_CHECKING:
    from verify.paper.gather import Content
    from verify.run.progress import Watcher

NAME = "paper.tex"
Layers = Annotated[
    list[str] | None,
    typer.Argument(metavar="LAYER", help="Layers (also FILE.toml, MODULE:FACTORY); default: those of paper_notes."),
]


def paper(
    layers: Layers = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for paper.tex and its figures.")
    ] = Path("paper"),
    pdf: Annotated[bool, typer.Option("--pdf", help="Also compile it with pdflatex.")] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", metavar="FOLDER", help="Folder of tables and speed files; default: paper_notes/results."
        ),
    ] = None,
    checks: Annotated[
        Path | None,
        typer.Option(
            "--checks", metavar="FILE", help="Output of `affdiv verify --json`; by default the checks run now."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write one document: derivations, maps with their proofs, checks, speed, training runs, claims, references.

    Every number comes from a derivation computed and checked now, from the checks, or from a table of results. Takes
    several minutes on two cores, mostly for the checks. Exit code 1 if a step is refuted, a check fails or a claim is
    not proved; the document says which.
    """
    from derive.export.pdf import needed_program
    from verify.files import check_folder
    from verify.paper.document import document
    from verify.paper.gather import results_folder
    from verify.run.progress import watching
    from verify.run.table import print_json

    names = [NAME, *(["paper.pdf"] if pdf else [])]
    check_folder(output, names, "--output")
    folder = results_folder(results)
    if pdf:
        needed_program()
    with watching() as watcher:
        content = _gathered(layers or (), folder, checks, watcher)
        watcher.begin("write")
        text, figures = document(content)
        written = _write(output, text, figures, pdf)
    said = _summary(content, written)
    if json:
        print_json(said)
    else:
        for line in _lines(said):
            typer.echo(line)
    if not said["ok"]:
        raise typer.Exit(1)


def _gathered(layers: Sequence[str], folder: Path, checks: Path | None, watcher: Watcher) -> Content:
    from derive.cli import named_layer
    from derive.export.summary import CHAPTERS, chapter
    from verify.checks.record import Setting
    from verify.checks.runner import run_named
    from verify.claims.ledger import ledger
    from verify.claims.proofs import proofs
    from verify.paper.gather import Content, read_checks, read_speed
    from verify.training.sources import load_sources

    chosen = [named_layer(name) for name in layers or CHAPTERS]
    speed, sources = read_speed(folder), load_sources([folder], ())
    if checks is None:
        watcher.begin("verify")
        ran = run_named((), (), Setting(), lambda _, done, total: watcher.advance(done, total))
        rows: Sequence[Mapping[str, Any]] = [check.to_json() for check in ran]
    else:
        rows = read_checks(checks)
    watcher.begin("derive")
    chapters = []
    for number, layer in enumerate(chosen, 1):
        chapters.append(chapter(layer, check=True))
        watcher.advance(number, len(chosen))
    watcher.begin("judge")
    return Content(chapters, rows, speed, sources, ledger(sources, proofs()))


def _write(output: Path, text: str, figures: Mapping[str, bytes], pdf: bool) -> list[Path]:
    """Write each file atomically; with ``pdf`` only after compilation succeeds, so that a failure changes nothing."""
    import tempfile

    from derive.export.files import write_bytes
    from derive.export.pdf import FIGURES, compile_pdf
    from verify.files import make_folder

    make_folder(output / FIGURES, "--output")
    contents = {**figures, NAME: text.encode()}
    if pdf:
        with tempfile.TemporaryDirectory(prefix="affdiv-") as name:
            staging = Path(name)
            (staging / FIGURES).mkdir()
            for part, content in contents.items():
                (staging / part).write_bytes(content)
            contents["paper.pdf"] = compile_pdf(staging / NAME).read_bytes()
    for part, content in contents.items():
        write_bytes(output / part, content)
    return [output / part for part in contents]


def _summary(content: Content, written: Sequence[Path]) -> dict[str, Any]:
    from collections import Counter

    from verify.claims.ledger import NOT_PROVED
    from verify.paper.overview import steps_of

    steps = Counter(
        step.verdict.status.value
        for chapter in content.chapters
        for derivation in (chapter.derivation, *chapter.under_rules)
        for step in steps_of(derivation)
    )
    checks = Counter(check["status"] for check in content.checks)
    claims = [{"id": e.claim.id, "derived": e.derived, "tested": e.tested} for e in content.entries]
    return {
        "schema": "affdiv.paper/1",
        "written": [str(path) for path in written],
        "layers": [chapter.derivation.layer.name for chapter in content.chapters],
        "steps": dict(steps),
        "checks": {status: checks[status] for status in ("pass", "fail", "skipped")},
        "claims": claims,
        "ok": not steps["refuted"] and not checks["fail"] and NOT_PROVED not in [c["derived"] for c in claims],
    }


def _lines(said: Mapping[str, Any]) -> list[str]:
    """Return the summary for a terminal."""
    steps = ", ".join(f"{count} {status}" for status, count in sorted(said["steps"].items()))
    checks = said["checks"]
    documents = [path for path in said["written"] if Path(path).stem == "paper"]
    return [
        f"{len(said['layers'])} layers; steps: {steps}",
        f"checks: {checks['pass']} passed, {checks['fail']} failed, {checks['skipped']} skipped",
        *(f"{claim['id']:<4} {claim['derived'] or '–':<11} {claim['tested'] or '–'}" for claim in said["claims"]),
        *(f"written: {path}" for path in documents),
        f"{len(said['written']) - len(documents)} figures beside it",
    ]
