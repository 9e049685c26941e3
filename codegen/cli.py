"""The code generator on the command line: ``layers`` lists what exists, ``generate`` writes or checks a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from derive.forward_map import Layer


def register(app: typer.Typer) -> None:
    """Add these commands to the program, and let every command that takes a layer accept a PyTorch module."""
    from derive.sources import add_source

    add_source(_captured)
    app.command("layers", rich_help_panel="Mathematics")(layers)
    app.command("generate")(generate)


def _captured(words: str) -> Layer:
    """Return the layer of ``MODULE:FACTORY``, or of ``MODULE:Class`` and the axes of its input."""
    from codegen.capture import capture

    name, _, example = words.strip().partition(" ")
    return capture(name, example=example.strip() or None)


Example = Annotated[
    str | None,
    typer.Option("--example", metavar="AXES", help="For MODULE:Class, the axes of its input, such as 'B n'."),
]


def layers(
    layer: Annotated[
        str | None,
        typer.Argument(
            metavar="LAYER",
            help="One layer, FILE.toml or MODULE:FACTORY, with the targets that have kernels for it.",
        ),
    ] = None,
    example: Example = None,
    operators: Annotated[
        bool, typer.Option("--operators", help="List the PyTorch operators that capture supports instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List every layer, or one, with its self factor and the maps that cancel it; compositions are written A>B.

    The list ends with the generated GPU kernels and the devices on which their current source passed. For one layer it
    ends with the targets that have kernels for it, and says why the others have none.
    """
    from derive.cli import named_layer, print_result
    from derive.export.kernels import kernel_lines, kernel_rows, recorded_runs
    from derive.export.summary import SCHEMA, generated_manifest, layer_rows, with_generated
    from derive.export.terminal import table_lines
    from derive.layers import layer as shipped
    from derive.layers import layer_names
    from derive.sources import is_module

    if operators:
        from codegen.capture.operators import covered

        table = covered()
        print_result(dict(table) if as_json else [f"{name:<34} {text}" for name, text in table.items()])
        return
    if layer is None:
        rows = with_generated(layer_rows({name: shipped(name) for name in layer_names()}))
        kernels = kernel_rows(generated_manifest().get("files", {}), recorded_runs())
        told = {"schema": SCHEMA, "layers": rows, "kernels": kernels}
        print_result(told if as_json else [*table_lines(rows), *kernel_lines(kernels)])
        return
    chosen = named_layer(layer, example)
    rows = with_generated(layer_rows({layer if layer in layer_names() else chosen.name: chosen}))
    targets = _targets(chosen) if layer.endswith(".toml") or is_module(layer) else {}
    lines = [f"{name:<8} {text}" for name, text in targets.items()]
    found: dict[str, Any] = {"schema": SCHEMA, "layers": rows, "targets": targets}
    print_result(found if as_json else [*table_lines(rows), *([""] if lines else []), *lines])


def _targets(layer: Layer) -> dict[str, str]:
    """Return for each target whether it has kernels for a layer, and if not, why."""
    from codegen.compiler import build_layer
    from codegen.package import MANIFEST
    from codegen.targets.base import TARGETS, family

    lacking: dict[str, Any] = {}
    for names in (family(t) for t in TARGETS if not t.host):
        lacking |= json.loads(build_layer(layer, targets=names)[MANIFEST])["without"]
    return {t.name: f"none: {lacking[t.name]['text']}" if t.name in lacking else t.title for t in TARGETS}


def generate(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if the package there differs.")] = False,
    out: Annotated[Path, typer.Option(help="The folder that holds the package.")] = Path("."),
    package: Annotated[
        str | None,
        typer.Option(help="The package's name: affine_divergence, or with --spec the layer's.", show_default=False),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="FILE.toml or MODULE:FACTORY; the package then holds only the maps of this layer.",
            show_default=False,
        ),
    ] = None,
    example: Example = None,
    angle: Annotated[
        str | None,
        typer.Option(help='Also the map at an angle t(r) of the family, such as "atan(r)/2".', show_default=False),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="The targets, separated by commas; by default those of the shipped package.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Generate the package of layers from the derivations, or a package for one layer of yours.

    A layer with several outputs gets one package per output.
    """
    from codegen.package import differences, write
    from codegen.request import Request
    from derive.errors import UsageError

    parts = Request(spec, package, angle, targets, example).parts()
    absent = [folder for folder in (out / part.package for part in parts) if check and not folder.is_dir()]
    if absent:  # reported before the derivation, which takes seconds
        raise UsageError(f"no package at {str(absent[0])!r} to check; name the folder that holds it with --out")
    derived = [(part, part.texts()) for part in parts]
    reports, differs = [], False
    for part, texts in derived:
        folder = out / part.package
        changed = differences(texts, folder)
        differs |= bool(changed)
        if changed and not check:
            write(texts, folder)
        if as_json:
            reports.append(_facts(folder, texts, changed, check))
        else:
            _report(folder, texts, changed, check)
    if as_json:
        several = {"schema": reports[0]["schema"], "packages": reports}
        typer.echo(json.dumps(several if len(reports) > 1 else reports[0], indent=2))
    if check and differs:
        raise typer.Exit(1)


_TOLD = ("layer", "classes", "plain", "targets", "without", "refused")


def _facts(folder: Path, texts: dict[str, str], changed: list[str], check: bool) -> dict[str, Any]:
    from codegen.package import MANIFEST

    manifest = json.loads(texts[MANIFEST])
    return {
        "schema": "affdiv.generate/1",
        "folder": str(folder),
        "package": manifest["package"],
        "status": "same" if not changed else "differs" if check else "written",
        **{key: manifest[key] for key in _TOLD if key in manifest},
        "files": sorted(texts),
        "differences": changed,
    }


def _report(folder: Path, texts: dict[str, str], changed: list[str], check: bool) -> None:
    from codegen.package import MANIFEST

    manifest = json.loads(texts[MANIFEST])
    if not changed:
        typer.echo(f"{folder}: {len(texts)} files match the derivations")
    elif check:
        typer.echo("\n".join(changed))
        typer.echo(f"{folder} differs from the derivations; run `affdiv generate` to update it")
    else:
        typer.echo(f"{folder}: {len(texts)} files written")
    if "targets" in manifest:
        typer.echo(f"  targets: {', '.join(manifest['targets'])}")
    for name, derivation in {**manifest.get("classes", {}), **manifest.get("plain", {})}.items():
        typer.echo(f"  {name}: {derivation}")
    for target, lack in manifest.get("without", {}).items():
        typer.echo(f"  no kernels for {target}: {lack['text']}")
    if manifest.get("refused"):
        typer.echo(f"  not generated: {manifest['refused']}")
