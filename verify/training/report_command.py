"""``affdiv report``: what the trials of a store say of each hypothesis. Imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verify.training.cli import STORE, Json

if TYPE_CHECKING:
    from verify.hypotheses import Finding


def report(
    store: Annotated[Path, typer.Option("--store", help="The folder (or .sqlite file) that holds the trials.")] = STORE,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the page goes.")] = Path(
        "report.html"
    ),
    json: Json = False,
) -> None:
    """Judge each hypothesis by the trials of a store and write the result as one page.

    Supported, contradicted or inconclusive, with effect, 95 % interval and the trials that it rests on. A store whose
    sweeps still run is judged by what is done.
    """
    from derive.errors import UsageError
    from derive.export.files import write_text
    from verify.files import check_folder, make_folder
    from verify.hypotheses import judge
    from verify.report.experiments import render
    from verify.run.table import print_json
    from verify.training.export import table
    from verify.training.store import Store

    check_folder(output.parent, (output.name,), "--output")
    with Store(store) as opened:
        opened.check()
        found = {name: (text, table(opened.rows(name))) for name, (text, _) in opened.experiments().items()}
    if not found:
        raise UsageError(f"store {str(store)!r} is empty; run an experiment first: affdiv experiment run smoke")
    make_folder(output.parent, "--output")
    findings = {name: judge(trials) for name, (_, trials) in found.items()}
    write_text(output, render(found, findings))
    if json:
        print_json({"schema": "affdiv.report/1", "output": str(output), "experiments": _plain(findings)})
        return
    for name, judged in findings.items():
        typer.echo(f"{name}:")
        for finding in judged:
            typer.echo(f"  {finding.hypothesis} {finding.verdict.value:<12} {finding.statement}")
    typer.echo(f"written: {output}")


def _plain(findings: Mapping[str, Sequence[Finding]]) -> dict[str, list[dict[str, Any]]]:
    """Return the findings as JSON has them."""
    return {name: [asdict(finding) for finding in judged] for name, judged in findings.items()}
