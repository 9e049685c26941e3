"""The command ``affdiv generate``: write a generated package, or check that it is what the derivations say."""

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
    package: Annotated[
        str | None,
        typer.Option(help="The package's name: affine_divergence, or with --spec the layer's.", show_default=False),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="A layer in a TOML file: the package holds its maps alone.", show_default=False)
    ] = None,
    angle: Annotated[
        str | None,
        typer.Option(help='Also the map at an angle t(r) of the family, such as "atan(r)/2".', show_default=False),
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="The targets, separated by commas: all there are.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Write the generated layers from the derivations, or those of a layer in a file."""
    from codegen.package import differences, write
    from codegen.request import Request

    request = Request(spec, package, angle, targets)
    texts = request.texts()
    folder = out / request.package
    changed = differences(texts, folder)
    if changed and not check:
        write(texts, folder)
    _report(folder, texts, changed, check, as_json)
    if check and changed:
        raise typer.Exit(1)


_TOLD = ("layer", "classes", "plain", "targets", "without", "refused")


def _report(folder: Path, texts: dict[str, str], changed: list[str], check: bool, as_json: bool) -> None:
    from codegen.package import MANIFEST

    manifest = json.loads(texts[MANIFEST])
    if as_json:
        status = "same" if not changed else "differs" if check else "written"
        told = {key: manifest[key] for key in _TOLD if key in manifest}
        report = {
            "schema": "affdiv.generate/1",
            "folder": str(folder),
            "package": manifest["package"],
            "status": status,
            **told,
            "files": sorted(texts),
            "differences": changed,
        }
        typer.echo(json.dumps(report, indent=2))
        return
    if not changed:
        typer.echo(f"{folder}: {len(texts)} files, as derived")
    elif check:
        typer.echo("\n".join(changed))
        typer.echo(f"{folder} differs from what the derivations say; run `affdiv generate` to update it")
    else:
        typer.echo(f"{folder}: {len(texts)} files written")
    for name, derivation in {**manifest.get("classes", {}), **manifest.get("plain", {})}.items():
        typer.echo(f"  {name}: {derivation}")
    for target, lack in manifest.get("without", {}).items():
        typer.echo(f"  no kernels for {target}: {lack['text']}")
    if manifest.get("refused"):
        typer.echo(f"  not generated: {manifest['refused']}")
