"""The command ``affdiv generate``: write the generated package, or check that it is what the derivations say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this room's commands to the program."""
    app.command("generate")(generate)


def generate(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if the package there differs.")] = False,
    out: Annotated[Path, typer.Option(help="The folder that holds the package.")] = Path("."),
    package: Annotated[str, typer.Option(help="The package's name.")] = "affine_divergence",
    targets: Annotated[str, typer.Option(help="The targets, separated by commas.")] = "torch,triton,cuda",
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Write the generated layers from the derivations."""
    from codegen.package import build, check_name, check_targets, differences, write

    check_name(package)
    check_targets(targets.split(","))
    folder = out / package
    texts = build(package, targets.split(","))
    changed = differences(texts, folder)
    if changed and not check:
        write(texts, folder)
    _report(folder, sorted(texts), changed, check, as_json)
    if check and changed:
        raise typer.Exit(1)


def _report(folder: Path, names: list[str], changed: list[str], check: bool, as_json: bool) -> None:
    if as_json:
        status = "same" if not changed else "differs" if check else "written"
        report = {
            "schema": "affdiv.generate/1",
            "folder": str(folder),
            "status": status,
            "files": names,
            "differences": changed,
        }
        typer.echo(json.dumps(report, indent=2))
    elif not changed:
        typer.echo(f"{folder}: {len(names)} files, as derived")
    elif check:
        typer.echo("\n".join(changed))
        typer.echo(f"{folder} differs from what the derivations say; run `affdiv generate` to update it")
    else:
        typer.echo(f"{folder}: {len(names)} files written")
