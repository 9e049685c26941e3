"""The mathematics on the command line: ``derive``, ``solve``, ``latex`` and ``language``.

Every function imports what it needs when it runs, so that the program's help costs nothing.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from derive.export.blocks import Block
    from derive.export.outline import Chapter
    from derive.forward_map import Layer
    from derive.record import Derivation

LayerName = Annotated[
    str,
    typer.Argument(
        metavar="LAYER",
        help="A layer's name, a layer file FILE.toml, or MODULE:FACTORY, a function that returns a PyTorch module.",
    ),
]
LayerNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="LAYER", help="Layers' names, FILE.toml or MODULE:FACTORY; default: those of paper_notes."),
]
Angle = Annotated[str | None, typer.Option("--angle", metavar="T", help="Also the map of this angle: '2*atan(r/2)'.")]
Rule = Annotated[
    str, typer.Option("--rule", help="The update rule: sgd, nlms, foof, adam, muon, ..; any unknown name lists all.")
]
Example = Annotated[
    str | None,
    typer.Option("--example", metavar="AXES", help="For MODULE:Class, the axes of its input, such as 'B n'."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class Format(StrEnum):
    """The formats that ``latex`` writes."""

    LATEX = "latex"
    MARKDOWN = "markdown"
    MATHML = "mathml"
    HTML = "html"


class Statistics(StrEnum):
    """The input statistics for which ``solve`` gives the expected spread."""

    GAUSSIAN = "gaussian"
    RELU = "relu"
    COVARIANCE = "covariance"


def register(app: typer.Typer) -> None:
    """Add the commands of this package to the program."""
    for command in (derive, solve, latex, language, atlas):
        app.command()(command)


def atlas(
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write one page instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the layers of the literature: the self factor, the maps that cancel it or why none does, and the source."""
    from derive.atlas import NOT_FOUND, SCHEMA, rows
    from derive.export.atlas import atlas_blocks, atlas_lines, rule_lines
    from derive.export.files import write_text
    from derive.export.html import page

    found = rows()
    if html is not None:
        write_text(html, page(atlas_blocks(found)))
    elif as_json:
        print_result({"schema": SCHEMA, "layers": found, "rules": rule_lines(), "not_found": dict(NOT_FOUND)})
    else:
        print_result(atlas_lines(found))


def language() -> None:
    """Print the language of layer files on one page."""
    from derive.language import page

    print_result(page().split("\n"))


def derive(
    layer: LayerName,
    check: Annotated[
        bool, typer.Option("--check", help="Verify the result and every step; exit 1 unless all hold.")
    ] = False,
    rule: Rule = "sgd",
    of: Annotated[
        int | None,
        typer.Option("--of", metavar="N", help="In a composition, train only the parameters of the N-th part."),
    ] = None,
    example: Example = None,
    as_json: AsJson = False,
) -> None:
    """Derive the effective activation update of a layer, step by step."""
    from derive.compose import only
    from derive.export.json_schema import derivation_to_json
    from derive.export.terminal import derivation_lines

    chosen = named_layer(layer, example)
    chosen = chosen if of is None else only(chosen, of)
    derivation = _full(chosen) if rule == "sgd" else _under(chosen, rule)
    derivation = derivation.check() if check else derivation
    data = derivation_to_json(derivation)
    print_result(data if as_json else derivation_lines(data))
    if check:
        _stop_unless_verified(data, quiet=as_json)


def solve(
    layer: LayerName,
    angle: Angle = None,
    inputs: Annotated[
        Statistics | None,
        typer.Option("--inputs", help="Also estimate the spread of the self factor for inputs of this kind."),
    ] = None,
    example: Example = None,
    as_json: AsJson = False,
) -> None:
    """Solve for the maps that cancel a layer's divergence, with their properties; or rank what comes closest."""
    from derive.export.json_schema import solutions_to_json
    from derive.export.remedies import best_lines, best_to_json, spread_lines, spread_to_json
    from derive.export.terminal import solutions_lines

    derivation = _full(named_layer(layer, example), angle)
    data = {**solutions_to_json(derivation), "best": best_to_json(derivation)}
    spread = {} if inputs is None else spread_to_json(derivation.layer, inputs.value)
    data |= {"spread": spread} if spread else {}
    print_result(data if as_json else [*solutions_lines(data), *best_lines(data["best"]), *spread_lines(spread)])


def latex(
    layers: LayerNames = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here, not to the terminal.")] = None,
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.LATEX,
    pdf: Annotated[bool, typer.Option("--pdf", help="Compile the LaTeX with pdflatex; needs -o.")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Verify every step and print the verdicts.")] = True,
    example: Example = None,
) -> None:
    """Write the derivations of layers as one document."""
    from derive.errors import UsageError
    from derive.export.files import write_text
    from derive.export.pdf import compile_pdf

    if pdf and (output is None or form is not Format.LATEX):
        raise UsageError("--pdf needs a file to write (-o FILE.tex) and --format latex")
    if pdf and output is not None and output.suffix == ".pdf":
        raise UsageError(f"-o {str(output)!r} does not end in .tex; --pdf needs -o {str(output.with_suffix('.tex'))!r}")
    written = _document([_chapter(chosen, check) for chosen in _chosen(layers or [], example)], form)
    if output is None:
        typer.echo(written, nl=False)
        return
    write_text(output, written)
    typer.echo(f"wrote {output}")
    if pdf:
        typer.echo(f"wrote {compile_pdf(output)}")


def _document(chapters: list[Chapter], form: Format) -> str:
    from derive.export import html, latex, markdown, mathml
    from derive.export.outline import document_blocks

    writers: dict[str, Callable[[list[Block]], str]]
    writers = {"latex": latex.page, "markdown": markdown.render, "mathml": mathml.render, "html": html.page}
    return writers[form.value](document_blocks(chapters))


def _chapter(layer: Layer, check: bool) -> Chapter:
    from derive.export.summary import chapter

    return chapter(layer, check)


def _chosen(names: list[str], example: str | None) -> list[Layer]:
    """Return the named layers, or those of the project's own document."""
    from derive.export.summary import CHAPTERS

    return [named_layer(name, example) for name in names or CHAPTERS]


def named_layer(name: str, example: str | None = None) -> Layer:
    """Return a layer by name, from a file if the name ends in .toml, or from a module; raise UsageError otherwise.

    ``example`` holds the axes of the input of ``MODULE:Class``.
    """
    from derive.sources import with_example

    name = with_example(name, example)
    if name.endswith(".toml") and ">" not in name and "(" not in name:
        from derive.spec import load_spec

        return load_spec(Path(name))
    from derive.layers import layer

    return layer(name)


def _full(layer: Layer, angle: str | None = None) -> Derivation:
    from derive.export.summary import full_derivation

    if angle is None:
        return full_derivation(layer)
    from derive.spec import parse_angle

    return full_derivation(layer, parse_angle(angle))


def _under(layer: Layer, rule: str) -> Derivation:
    from derive.update import effective_update

    return effective_update(layer, rule)


def print_result(content: dict[str, Any] | list[str]) -> None:
    """Print JSON data on one line, or lines as they are."""
    if isinstance(content, dict):
        import json

        typer.echo(json.dumps(content))
    else:
        typer.echo("\n".join(content).rstrip())


def _stop_unless_verified(data: dict[str, Any], quiet: bool) -> None:
    """Print the outcome of the check; exit with 1 if a step or a statement of the result is refuted or unverified."""
    parts = [data, *data["solutions"]]
    steps = [step for part in parts for step in part["steps"]]
    claims = [claim for part in parts for claim in part["claims"]]
    if not quiet:
        typer.echo(f"\n{len(claims)} statements of results: {_counts(claims)}")
        typer.echo(f"{len(steps)} steps, those of the cancelling maps included: {_counts(steps)}")
    failed = [part for part in (*claims, *steps) if part["status"] in ("refuted", "unverified")]
    for part in failed:
        typer.echo(f"{part['id']}: {part['status']}: {part['method']}", err=True)
    if failed:
        raise typer.Exit(1)


def _counts(parts: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part["status"]] = counts.get(part["status"], 0) + 1
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
