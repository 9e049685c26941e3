"""``affdiv report``: verdicts on each hypothesis from stores or tables. Its imports are deferred to the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verify.claims.command import Stores, Tables
from verify.training.cli import STORE, Json, experiment_of

if TYPE_CHECKING:
    from verify.hypotheses import Finding
    from verify.training.own_hypotheses import Hypothesis
    from verify.training.sources import Source

Experiments = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|FILE.toml",
        help="An experiment whose declared hypotheses are judged on its trials; may be repeated.",
    ),
]


def report(
    table: Tables = None,
    store: Stores = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    experiment: Experiments = None,
    surface: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Also plot the response surface into this file."),
    ] = None,
    json: Json = False,
) -> None:
    """Judge each hypothesis on the trials in stores or exported tables, and write the verdicts as one page.

    Each verdict is supported, contradicted or inconclusive, with the effect, its 95 % interval and the trials behind
    it. If a sweep is still running, its finished trials count. By default the command reads the store of `affdiv
    experiment`.
    """
    from derive.export.files import write_text
    from verify.files import check_folder, make_folder
    from verify.hypotheses import judge_all
    from verify.report.experiments import render
    from verify.run.table import print_json
    from verify.training.sources import load_sources

    check_folder(output.parent, (output.name,), "--output")
    if surface is not None:
        check_folder(surface.parent, (surface.name,), "--surface")
    sources = load_sources(table or (), store or (() if table else (STORE,)))
    declared = _own(experiment or (), sources)
    make_folder(output.parent, "--output")
    judged = judge_all([source.trials for source in sources], declared)
    findings = {source.name: found for source, found in zip(sources, judged, strict=True)}
    write_text(output, render(sources, findings))
    if surface is not None:
        _write_surface(surface, sources)
    if json:
        print_json({"schema": "affdiv.report/1", "output": str(output), "experiments": _plain(findings)})
        return
    for name, found in findings.items():
        typer.echo(f"{name}:")
        for finding in (finding for finding in found if not finding.detail):
            said = finding.verdict.value if finding.asked else "not tested"
            typer.echo(f"  {finding.hypothesis} {said:<12} {finding.statement}")
    typer.echo(f"written: {output}")


def _write_surface(path: Path, sources: Sequence[Source]) -> None:
    """Write the response surfaces of all sources as one plot; UsageError if no trials have one."""
    from derive.errors import UsageError
    from derive.export.files import write_text
    from verify.files import make_folder
    from verify.hypotheses.chosen import at_best_rates
    from verify.hypotheses.surface import surfaces
    from verify.report.surface_plots import surface_sheet

    found = [one for source in sources for one in surfaces(at_best_rates(source.trials))]
    if not found:
        raise UsageError("--surface: no trials compare affine-like with another method at two rates or more")
    make_folder(path.parent, "--surface")
    write_text(path, surface_sheet(found))


def _own(experiments: Sequence[str], sources: Sequence[Source]) -> list[tuple[Hypothesis, ...]]:
    """Return the declared hypotheses of each source; UsageError for an experiment without trials here."""
    from derive.errors import UsageError

    own: dict[str, tuple[Hypothesis, ...]] = {source.name: () for source in sources}
    for given in experiments:
        known = experiment_of(given)
        if known.name not in own:
            raise UsageError(
                f"--experiment {given}: there are no trials of {known.name!r}, only of {', '.join(own)}; run it first, "
                "or give its table or store"
            )
        own[known.name] = known.hypotheses
    return [own[source.name] for source in sources]


def _plain(findings: Mapping[str, Sequence[Finding]]) -> dict[str, list[dict[str, Any]]]:
    """Return the findings as plain JSON data."""
    return {
        name: [{**asdict(finding), "asked": finding.asked} for finding in judged] for name, judged in findings.items()
    }
