"""Statements on a result, each tested at several points of evaluation.

A statement is *universal* (it holds at every point: one counterexample refutes it) or *existential* (it holds
somewhere: a witness confirms it, and nothing refutes it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sympy import Expr

from derive.evaluation.agreement import SPREADS, Endless, Patience, never_larger, shown_sizes
from derive.evaluation.case import Case
from derive.evaluation.fields import MODULAR, ORDERED, Field
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point
from derive.evaluation.reading import Meter, Scope, field_for
from derive.evaluation.sizes import Sizes

if TYPE_CHECKING:
    from derive.forward_map import Layer

_LEAST = 4
_ATTEMPTS = 60
_VOLUME, _DEAREST = 60, 2_000
_STRETCHES = (1, 1, 8, 64, 512, 1)  # factors of the parameters, for ten attempts each


Item = TypeVar("Item")


class Refuted(Exception):
    """A statement does not hold at a point; the text is the counterexample."""


def over(items: Iterable[Item], look: Callable[[Item], None]) -> bool:
    """Test every item; skip those without a value (a patch without energy), unless no item has one."""
    told, problem = False, None
    for item in items:
        try:
            look(item)
            told = True
        except (NotEvaluable, ArithmeticError) as found:
            problem = found
    if problem is not None and not told:
        raise problem
    return told


@dataclass(frozen=True)
class Statement:
    """A statement: its id, its words, and its test.

    ``look`` returns whether the point was informative (for an existential statement: whether it is a witness); it
    raises ``Refuted`` at a counterexample. ``wanted`` describes the witness of an existential statement. ``step`` names
    the step, if any, whose normal forms state the same. ``basis`` says how a statement was established that evaluation
    cannot prove: a limit, a bound.
    """

    name: str
    words: str
    look: Callable[[Case], bool]
    wanted: str = ""
    step: str = ""
    basis: str = ""


@dataclass
class Finding:
    """The test of a statement so far: the points at which it held, a counterexample, or a doubt."""

    statement: Statement
    numbers: str
    seen: int = 0
    tried: int = 0
    counterexample: str = ""
    reason: str = ""
    single: str = ""

    @property
    def settled(self) -> bool:
        """Whether more points could not change the finding."""
        return bool(self.counterexample) or self.seen >= (1 if self.statement.wanted else _LEAST)

    def look(self, case: Case) -> None:
        """Test the statement at one more point."""
        point = case.plain
        try:
            held = self.statement.look(case)
        except Refuted as found:
            where = f"{shown_sizes(point)} ({self.numbers}, seed {point.seed})"
            self.counterexample = f"{found} for {where}"
        except (NotEvaluable, ArithmeticError) as problem:
            self.reason = str(problem) or type(problem).__name__
        else:
            self.tried += 1
            self.seen += held

    @property
    def agreed(self) -> str:
        """The points at which it held, in words; empty if these are too few."""
        if self.counterexample or not self.settled:
            return ""
        if self.statement.basis and not self.statement.wanted:
            return f"{self.statement.basis}; no counterexample among {self.tried} points, {self.numbers}"
        return f"the result against the forward map at {self.tried} random sizes, {self.numbers}{self.single}"

    @property
    def doubt(self) -> str:
        """Why the statement was not confirmed."""
        if self.statement.wanted and self.tried:
            return f"no {self.statement.wanted} at {self.tried} random sizes, {self.numbers}"
        return f"not evaluable: {self.reason}" if self.reason else "the time limit ran out"


@dataclass(frozen=True)
class Inquiry:
    """A layer and the expressions stated of it, tested together; ``given`` sets scalars at a point."""

    layer: Layer
    expressions: tuple[Expr, ...]
    given: Callable[[Point], None] = lambda point: None

    @property
    def scope(self) -> Scope:
        """The intermediates by their tensor."""
        return {d.base: d for d in self.layer.definitions}

    def findings(
        self, statements: Iterable[Statement], seed: int = 0, patience: Patience | None = None
    ) -> list[Finding]:
        """Test every statement at several points, until each is settled and every size has been above one."""
        output, patience = self.layer.output, patience or Endless()
        every = [output.expression, *self.expressions]
        numbers = field_for(every, self.scope)
        found = [Finding(statement, numbers.name) for statement in statements]
        sizes, meter = self._sizes(every), Meter(every, self.scope)
        small, strayed = set(sizes.symbols), 0
        for attempt in range(_ATTEMPTS):
            if patience.over() or (all(f.settled for f in found) and (not small or attempt > _ATTEMPTS // 4)):
                break
            kept = small if attempt % 3 < 2 else set()
            volume = _VOLUME if attempt < _ATTEMPTS // 3 else 6
            dearest = _DEAREST * 4 ** min(attempt // 6, 3)
            drawn = sizes.draw(kept, seed * 1000 + attempt, volume, meter, dearest)
            point = self._point(seed * 1000 + attempt, drawn, numbers, strayed, _STRETCHES[attempt // 10])
            told = self._look(found, point)
            strayed += not told
            small -= {s for s, size in drawn.items() if size > sizes.least(s)} if told else set()
        for finding in found:
            finding.single = never_larger(small)
        return found

    def _look(self, found: list[Finding], point: Point) -> bool:
        """Test every statement that is not refuted yet at a point; return whether the point was informative."""
        before = sum(f.tried for f in found)
        with point.field.context():
            case = self._case(point)
            for finding in found:
                if not finding.counterexample:
                    finding.look(case)
                    self._in_fractions(finding, point)
        return sum(f.tried for f in found) > before

    def _case(self, point: Point) -> Case:
        self.given(point)
        return Case.at(self.layer, point)

    def _in_fractions(self, finding: Finding, point: Point) -> None:
        """Repeat a counterexample of the prime field in fractions, which people can read."""
        if finding.counterexample and point.field is MODULAR:
            fractions = replace(point, field=ORDERED, memory={}, kept={}, nudges={}, constants={})
            again = Finding(finding.statement, ORDERED.name)
            again.look(self._case(fractions))
            finding.counterexample = again.counterexample or finding.counterexample

    def _point(self, seed: int, drawn: dict[Any, int], numbers: Field, strayed: int, stretch: int) -> Point:
        """Return a point; late ones have large parameters, in case a witness needs them."""
        parameters = dict.fromkeys((p.name for p in self.layer.parameters), stretch)
        spread = SPREADS[strayed % len(SPREADS)]
        return Point(seed, drawn, numbers, self.scope, spread=spread, stretch=parameters if stretch > 1 else {})

    def _sizes(self, every: list[Expr]) -> Sizes:
        layer = self.layer
        lengths = [axis for t in (*layer.inputs, *layer.parameters) for axis in t.axes]
        lengths += [i.size for d in (*layer.definitions, layer.output) for i in d.indices]
        return Sizes.of([*every, *(d.expression for d in layer.definitions)], lengths)
