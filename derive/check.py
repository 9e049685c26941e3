"""Machine check of a result and of every step: independent evaluation, and for steps also their normal forms.

``derive.evaluation`` evaluates both sides of a step without rewriting them, at several random small sizes and index
values. It also compares each stated result with the forward map. The verdicts are

    proved       the normal forms agree (by code that the deriver uses too), and independent evaluation agrees
    sampled      independent evaluation agrees
    refuted      a counterexample was found, and is shown
    unverified   neither a proof nor a counterexample, for the reason given

Evaluation cannot prove limits, bounds or injectivity: for these, ``sampled`` means that they were derived and that no
counterexample was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from sympy import Expr, IndexedBase

from derive.algebra.differentiate import carry_out, expand_definitions
from derive.algebra.equality import equal
from derive.algebra.normal import normalise
from derive.algebra.patience import Deadline, OutOfTime, Watch, go_on, remaining, until
from derive.evaluation.agreement import FEW, MANY, Agreement, Sides, agreement
from derive.evaluation.findings import Finding, Statement
from derive.evaluation.maps import map_findings, map_statements
from derive.evaluation.result import result_findings, statements
from derive.forward_map import Definition
from derive.record import CancellingMap, Claim, Derivation, Status, Step, Verdict

SECONDS = 20.0
_STEPS = 100  # of a proof by normal forms, for each second of the whole time limit; 2,000 took about one second
_DEAR_STEPS = 4  # in most derivations a few steps take most of the time: each gets its share of the time left
_MAX_OPERATIONS = 1_000
_MOST_KNOWN = 256

Scope = Mapping[IndexedBase, Definition]
Record = Derivation | CancellingMap


def checked(derivation: Derivation, seconds: float = SECONDS) -> Derivation:
    """Return the derivation with the verdicts of its result, of every step and of its solutions filled in.

    Whatever the ``seconds`` of processor time do not suffice for stays unverified, with that reason.
    """
    return _checked(derivation, Deadline(seconds))


def checked_map(found: CancellingMap, seconds: float = SECONDS) -> CancellingMap:
    """Return the map with the verdicts of its result and of every step filled in."""
    return _checked_map(found, Deadline(seconds))


def check_step(step: Step, seed: int = 0, seconds: float = SECONDS) -> Verdict:
    """Return the verdict of one step; ``seed`` chooses the evaluation points."""
    return _check_step(step, seed, Deadline(seconds))


def statements_of(stated: Record) -> tuple[Statement, ...]:
    """Return the statements of a derivation or of a map, unchecked."""
    return tuple(statements(stated) if isinstance(stated, Derivation) else map_statements(stated))


@lru_cache(maxsize=256)
def check_claims(stated: Record, seed: int = 0) -> tuple[Claim, ...]:
    """Return the statements of a derivation or of a map with the verdicts of independent evaluation alone.

    ``seed`` chooses the evaluation points.
    """
    look = _of_result if isinstance(stated, Derivation) else _of_map
    return tuple(_claim(finding, ()) for finding in look(stated, seed, Deadline(SECONDS)))


def _checked(derivation: Derivation, deadline: Deadline) -> Derivation:
    """Check results before steps: if time runs out, the results matter more."""
    bare = replace(derivation, solutions=(), refusals=(), claims=())
    found = _findings(_of_result, bare, deadline)
    solutions = tuple(_checked_map(m, deadline) for m in derivation.solutions)
    steps = _checked_steps(derivation.steps, deadline)
    claims = tuple(_claim(finding, steps) for finding in found)
    return replace(derivation, steps=steps, claims=claims, solutions=solutions)


def _checked_map(found: CancellingMap, deadline: Deadline) -> CancellingMap:
    findings = _findings(_of_map, replace(found, claims=()), deadline)
    steps = _checked_steps(found.steps, deadline)
    return replace(found, steps=steps, claims=tuple(_claim(finding, steps) for finding in findings))


def _checked_steps(steps: Sequence[Step], deadline: Deadline) -> tuple[Step, ...]:
    return tuple(
        replace(step, verdict=_check_step(step, 0, deadline.part(min(len(steps) - number, _DEAR_STEPS))))
        for number, step in enumerate(steps)
    )


def _findings(look: Callable[..., list[Finding]], subject: Record, deadline: Deadline) -> list[Finding]:
    """Check a subject once and keep the findings; do not keep findings that the time limit cut short."""
    if subject not in _known:
        found = look(subject, 0, deadline)
        if deadline.over():
            return found
        if len(_known) > _MOST_KNOWN:
            _known.clear()
        _known[subject] = found
    return _known[subject]


_of_result: Callable[..., list[Finding]] = result_findings
_of_map: Callable[..., list[Finding]] = map_findings
_known: dict[Record, list[Finding]] = {}


def _claim(finding: Finding, steps: Sequence[Step]) -> Claim:
    """Return a finding as a claim: proved if the step that states the same is proved."""
    statement = finding.statement
    if finding.counterexample or not finding.agreed:
        verdict = _without_agreement(finding.counterexample, finding.doubt)
    else:
        proofs = [s for s in steps if statement.step and s.id.endswith("/" + statement.step)]
        proof = next((s for s in proofs if s.verdict.status is Status.PROVED), None)
        if proof is None:
            verdict = Verdict(Status.SAMPLED, finding.agreed)
        else:
            verdict = Verdict(Status.PROVED, f"{proof.id}, by its normal form; {finding.agreed}")
    return Claim(statement.name, statement.words, verdict)


def _check_step(step: Step, seed: int, deadline: Deadline) -> Verdict:
    try:
        with until(deadline):
            return _verdict(step, seed)
    except _CutShort as cut:
        return cut.verdict
    except OutOfTime:
        return Verdict(Status.UNVERIFIED, f"not checked: the time limit of {deadline.whole:g} s ran out")


class _CutShort(OutOfTime):
    """The time ran out after few points, at which both sides agreed."""

    def __init__(self, few: Agreement) -> None:
        super().__init__()
        self.verdict = Verdict(Status.SAMPLED, f"{few.agreed}, when its time ran out")


@lru_cache(maxsize=2_000)
def _verdict(step: Step, seed: int) -> Verdict:
    """Check a step once, however many derivations hold it; past the deadline raise OutOfTime with what was found."""
    sides = Sides(step.id, step.before, step.after, step.scope)
    few = agreement(sides, seed, FEW, Watch())
    if not (few.agreed or few.counterexample):
        go_on()
    if not few.agreed:
        return _without_agreement(few.counterexample, few.reason)
    try:
        if _proved(step):
            return Verdict(Status.PROVED, f"normal form, shared with the deriver; {few.agreed}")
        many = agreement(sides, seed, MANY, Watch())
        if not many.counterexample:
            go_on()
    except OutOfTime:
        raise _CutShort(few) from None
    return Verdict(Status.SAMPLED, many.agreed) if many.agreed else _without_agreement(many.counterexample, many.reason)


def _proved(step: Step) -> bool:
    """Compare normal forms within a number of steps, not seconds, so that every machine decides alike; else sample."""
    go_on()
    scope = {definition.base: definition for definition in step.scope}
    time = remaining().part(2)
    try:
        with until(time.steps(int(_STEPS * time.whole))):
            return _provable(step, scope)
    except OutOfTime:
        go_on()
        return False


def _without_agreement(counterexample: str, reason: str) -> Verdict:
    return Verdict(Status.REFUTED, counterexample) if counterexample else Verdict(Status.UNVERIFIED, reason)


def _provable(step: Step, scope: Scope) -> bool:
    """Compare normal forms, expanding more and more definitions; skip a pair that was compared before."""
    tried: set[tuple[Expr, Expr]] = set()
    for sides in _forms(step, scope):
        if sides not in tried and equal(*sides):
            return True
        tried.add(sides)
    return False


def _forms(step: Step, scope: Scope) -> Iterator[tuple[Expr, Expr]]:
    """Yield both sides as they are, then with more and more intermediates replaced by their definitions.

    First the moved tensors and the output are replaced, then intermediates made of other intermediates, then all.
    """
    before, after = carry_out(step.before, scope), carry_out(step.after, scope)
    yield before, after
    moved = {d.name for d in step.scope if d.name.endswith("'")}
    outer = {base: d for base, d in scope.items() if d.name in moved or f"{d.name}'" in moved or d.entry == step.target}
    if outer:
        # Normalise what is made of moved tensors before these are replaced by their new values.
        first = _made_of(outer, outer)
        staged = [normalise(expand_definitions(side, first)) for side in (before, after)]
        yield expand_definitions(staged[0], outer), expand_definitions(staged[1], outer)
    for some in (_made_of(scope, scope), scope):
        left, right = expand_definitions(before, some), expand_definitions(after, some)
        if left.count_ops() + right.count_ops() <= _MAX_OPERATIONS:
            yield left, right


def _made_of(scope: Scope, others: Scope) -> Scope:
    """Return the definitions that mention an intermediate of ``others``."""
    return {base: d for base, d in scope.items() if d.expression.atoms(IndexedBase) & others.keys()}
