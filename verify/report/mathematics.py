"""Derived equations as MathML, which browsers render without scripts, fonts or a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup

from derive.export.mathml import formula
from derive.export.prose import plain
from derive.export.steps import step_equation
from derive.export.symbols import Notation, notation_for
from derive.forward_map import Layer
from derive.record import Status, Step


@dataclass(frozen=True)
class Line:
    """A step on the page: its equation id, its rule, both sides in MathML, and its verdict."""

    id: str
    rule: str
    left: Markup
    rights: tuple[Markup, ...]
    status: str
    method: str

    @property
    def good(self) -> bool:
        """Whether the step was checked and held."""
        return self.status in (Status.PROVED.value, Status.SAMPLED.value)


@cache
def mathml(latex: str, display: bool = False) -> Markup:
    """Return LaTeX as a ``<math>`` element that also contains the LaTeX, for copying and for screen readers."""
    markup = formula(latex)
    # Keep the bars of a norm at one height, whatever index follows them.
    markup = markup.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
    if display:
        markup = markup.replace('display="inline"', 'display="block"', 1)
    return Markup(markup.replace("<math ", f'<math alttext="{_attribute(latex)}" ', 1))


def lines(steps: Sequence[Step], layer: Layer) -> list[Line]:
    """Return the steps of a derivation in the notation of its layer."""
    notation = notation_for(layer)
    return [_line(step, notation) for step in steps]


def _line(step: Step, notation: Notation) -> Line:
    equation = step_equation(step, notation)
    return Line(
        id=step.id,
        rule=plain(step.rule[:1].upper() + step.rule[1:]),
        left=mathml(equation.left, display=True),
        rights=tuple(mathml(right, display=True) for right in equation.rights),
        status=step.verdict.status.value,
        method=step.verdict.method,
    )


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
