"""The section on training runs, with figures from the tables of experiments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from derive.export.blocks import Block, Code, Figures, Heading, Paragraph, Prose, prose
from verify.hypotheses.chosen import at_best_rates
from verify.paper.figures import Files, panel_figure
from verify.report.experiment_plots import labelling, panels
from verify.report.palette import pens_for
from verify.training.experiment import SETTINGS
from verify.training.sources import Source


def run_blocks(sources: Sequence[Source], files: Files) -> list[Block]:
    """Return the section on training runs; their figures go into ``files``."""
    blocks: list[Block] = [
        Heading(1, ("Training runs",)),
        Paragraph(
            (
                "There is one subsection per table of trials. A line is the mean over everything that its caption "
                "names; "
                "diverged trials have no value and are left out. The next section judges the claims by these trials.",
            )
        ),
    ]
    for source in sources:
        blocks += _source(source, files)
    return blocks


def _source(source: Source, files: Files) -> list[Block]:
    label = labelling(source.trials)
    pens = pens_for(sorted({label(trial) for trial in source.trials}))
    drawn = panels(source.trials, at_best_rates(source.trials), source.courses)
    entries: list[tuple[str, Prose]] = [
        (files.add(f"{source.name}-{panel[0]}", panel_figure(panel, pens)), (panel[2],)) for panel in drawn
    ]
    return [Heading(2, (source.name,)), Paragraph(_circumstances(source)), Figures(tuple(entries))]


def _circumstances(source: Source) -> Prose:
    """Return the number of trials, their outcomes, and the settings that all of them share."""
    outcomes = Counter(trial["outcome"] or "not done" for trial in source.trials)
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    shared = []
    for name in SETTINGS:
        values = {trial.get(name) for trial in source.trials}
        if len(values) == 1 and (value := values.pop()):
            shared.append(f"{name.replace('_', ' ')} {value}")
    settings = f" All have {', '.join(shared)}." if shared else ""
    return prose("From {}: {} trials ({})." + settings, Code(source.place.name), str(len(source.trials)), ended)
