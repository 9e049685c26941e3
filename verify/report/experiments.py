"""Experiments from stores and tables as one HTML document: verdicts, plots, and every trial behind a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from derive.errors import printable
from verify.hypotheses import Finding
from verify.hypotheses.chosen import ACCURACY, Chosen, at_best_rates
from verify.hypotheses.surface import surfaces
from verify.report.experiment_plots import labelling, pictures
from verify.report.page import environment
from verify.report.palette import PENS, SPARE, Pen, pens_for
from verify.report.plots import Picture
from verify.report.surface_plots import surface_pictures
from verify.training.experiment import SETTINGS
from verify.training.export import COLUMNS
from verify.training.sources import Source

QUESTIONS = {
    "H1": "Is the self term exact while networks train?",
    "H2": "Is the self factor the same for all samples?",
    "H3": "Does affine-like train at least as well in fully connected networks?",
    "H4": "How does the batch size change accuracy?",
    "H5": "Is scale invariance needed?",
    "H6": "Is PatchNorm on par in convolutional networks?",
    "H7": "Does alignment help, or the class of functions?",
    "H8": "Does attention train at least as well where it is corrected?",
    "H9": "Does affine-like train at least as well at one rate for all methods?",
}
_DECLARED = "Declared in the experiment's file."
_NOT_IN_IDS = r"[^A-Za-z0-9-]+"
_DIGITS = 6  # significant digits in the table of trials; the exported table has all digits


@dataclass(frozen=True)
class Best:
    """The best rate of one setting, with the results of the trials at that rate."""

    words: str
    chosen: Chosen
    accuracy: float | None
    effective: float | None


@dataclass(frozen=True)
class Section:
    """One experiment on the page.

    ``anchor`` is its name in ids of the page. ``surface`` holds the plots of the response surface, ``rivals`` the pens
    of the methods compared there. ``shared`` are the columns in which all trials agree, ``columns`` the others, which
    the table of trials shows.
    """

    source: Source
    anchor: str
    findings: Sequence[Finding]
    pictures: Sequence[Picture]
    pens: Mapping[str, Pen]
    surface: Sequence[Picture]
    rivals: Mapping[str, Pen]
    best: Sequence[Best]
    shared: Mapping[str, Any]
    columns: Sequence[str]

    @property
    def deciding(self) -> list[Finding]:
        """The findings that have trials and decide a hypothesis."""
        return [finding for finding in self.findings if finding.asked and not finding.detail]

    @property
    def details(self) -> list[Finding]:
        """The findings on parts of the decisive ones."""
        return [finding for finding in self.findings if finding.detail]

    @property
    def open(self) -> list[Finding]:
        """The findings that these trials do not test."""
        return [finding for finding in self.findings if not finding.asked and not finding.detail]

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of trials that finished, diverged or are not done."""
        outcomes = [trial["outcome"] or "not done" for trial in self.source.trials]
        return {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


def render(sources: Sequence[Source], findings: Mapping[str, Sequence[Finding]]) -> str:
    """Return the self-contained page of experiments.

    Args:
        sources: the experiments.
        findings: the findings of ``judge`` for each experiment, by name.
    """
    sections = [_section(source, findings[source.name]) for source in sources]
    own = {f.hypothesis: _DECLARED for section in sections for f in section.findings if f.hypothesis not in QUESTIONS}
    questions = {**QUESTIONS, **own}
    answers = {
        name: [(section, finding) for section in sections for finding in section.deciding if finding.hypothesis == name]
        for name in questions
    }
    template = environment().get_template("experiments.html.jinja")
    return template.render(
        place=lambda source: printable(str(source.place)),
        sections=sections,
        answers=answers,
        questions=questions,
        cell=cell,
        pens=[*PENS.values(), *SPARE],
    )


def cell(value: Any) -> str:
    """Return a value as text for the table of trials, with numbers rounded to ``_DIGITS``."""
    if value is None:
        return ""
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def _section(source: Source, findings: Sequence[Finding]) -> Section:
    chosen = at_best_rates(source.trials)
    label = labelling(source.trials)
    pens = pens_for(sorted({label(trial) for trial in source.trials}))
    values = {column: {trial[column] for trial in source.trials} for column in COLUMNS}
    shared = {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
    anchor = re.sub(_NOT_IN_IDS, "-", source.name)
    found = surfaces(chosen)
    rivals = pens_for(sorted({one.rival for one in found}))
    return Section(
        source=source,
        anchor=anchor,
        findings=findings,
        pictures=pictures(anchor, source.trials, chosen, source.courses, pens),
        pens=pens,
        surface=surface_pictures(anchor, found, rivals),
        rivals=rivals,
        best=[_best(one, shared) for one in chosen],
        shared={name: value for name, value in shared.items() if value is not None},
        columns=[name for name in COLUMNS if name == "trial" or name not in shared],
    )


def _best(one: Chosen, shared: Mapping[str, Any]) -> Best:
    varying = {name: value for name, value in one.settings.items() if name in SETTINGS and name not in shared}
    words = ", ".join(
        f"{'' if name == 'method' else f'{name} '}{cell(value)}" for name, value in varying.items() if value
    )
    trials = list(one.by_seed.values())
    accuracies = [trial[ACCURACY] for trial in trials]
    effective = trials[0]["effective_rate"] if trials else None
    return Best(words or str(one.settings["method"]), one, fmean(accuracies) if accuracies else None, effective)
