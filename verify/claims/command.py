"""``affdiv claims``: the ledger, from derivations and training runs. Its imports are deferred to the call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verify.training.cli import Json

if TYPE_CHECKING:
    from verify.claims.ledger import Entry

Tables = Annotated[
    list[Path] | None,
    typer.Option("--table", metavar="FILE|FOLDER", help="An exported table, or a folder of them; may be repeated."),
]
Stores = Annotated[
    list[Path] | None,
    typer.Option("--store", help="A folder (or .sqlite file) that holds trials; may be repeated."),
]


def claims(
    table: Tables = None,
    store: Stores = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the ledger to this file instead of printing it."),
    ] = None,
    json: Json = False,
) -> None:
    """Show for each claim of the paper what is proved, what training runs show, and where to find both.

    For mathematical claims the command derives and checks now; for claims on training it reads stores, or tables from
    `experiment export`. Exit code 1 if a derivation does not prove its claim.
    """
    from derive.export.files import write_text
    from verify.claims.ledger import NOT_PROVED, ledger
    from verify.claims.markdown import markdown
    from verify.claims.proofs import proofs
    from verify.files import check_folder, make_folder
    from verify.run.table import print_json
    from verify.training.sources import load_sources

    if output is not None:
        check_folder(output.parent, (output.name,), "--output")
    entries = ledger(load_sources(table or (), store or ()), proofs())
    text = markdown(entries, Path.cwd() if output is None else output.absolute().parent)
    if output is not None:
        make_folder(output.parent, "--output")
        write_text(output, text)
    if json:
        print_json({"schema": "affdiv.claims/1", "claims": _plain(entries)})
    elif output is None:
        typer.echo(text, nl=False)
    else:
        for entry in entries:
            typer.echo(f"{entry.claim.id:<4} {entry.derived or '–':<11} {entry.tested or '–':<20} {entry.claim.says}")
        typer.echo(f"written: {output}")
    if any(entry.derived == NOT_PROVED for entry in entries):
        raise typer.Exit(1)


def _plain(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the entries as plain JSON data."""
    return [
        {
            **asdict(entry.claim),
            "derived": entry.derived,
            "tested": entry.tested,
            "proofs": [asdict(proof) for proof in entry.proofs],
            "findings": [{**asdict(e.finding), "table": str(e.place)} for e in entry.evidence],
        }
        for entry in entries
    ]
