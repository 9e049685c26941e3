"""Machine check of every step: the normal form, and evaluation by a route that shares no rule with the derivation.

Each side is evaluated, as it stands, at several random small sizes and at every value of its free indices
(``derive.evaluation``). A step is

    proved       both sides have the same normal form (whose code the deriver uses too), and every evaluation agrees
    sampled      every evaluation agrees
    refuted      an evaluation differs (the counterexample is shown)
    unverified   it could not be evaluated, for the reason given
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from sympy import Expr, IndexedBase

from derive.algebra.differentiate import carry_out, expand_definitions
from derive.algebra.equality import equal
from derive.algebra.normal import normalise
from derive.evaluation.agreement import FEW, MANY, Sides, agreement
from derive.evaluation.findings import Finding
from derive.evaluation.maps import map_findings
from derive.evaluation.result import result_findings
from derive.forward_map import Definition
from derive.record import CancellingMap, Claim, Derivation, Status, Step, Verdict

_MAX_OPERATIONS = 1_000

Scope = Mapping[IndexedBase, Definition]


def checked(derivation: Derivation) -> Derivation:
    """Return the derivation with the verdicts of its result, of every step and of its solutions filled in."""
    steps = tuple(replace(step, verdict=check_step(step)) for step in derivation.steps)
    bare = replace(derivation, solutions=(), refusals=(), claims=())
    claims = tuple(_claim(finding, steps) for finding in _of_result(bare))
    solutions = tuple(checked_map(m) for m in derivation.solutions)
    return replace(derivation, steps=steps, claims=claims, solutions=solutions)


def checked_map(found: CancellingMap) -> CancellingMap:
    """Return the map with the verdicts of its result and of every step filled in."""
    steps = tuple(replace(step, verdict=check_step(step)) for step in found.steps)
    return replace(found, steps=steps, claims=tuple(_claim(finding, steps) for finding in _of_map(found)))


@lru_cache(maxsize=256)
def _of_result(derivation: Derivation) -> tuple[Finding, ...]:
    return tuple(result_findings(derivation))


@lru_cache(maxsize=256)
def _of_map(found: CancellingMap) -> tuple[Finding, ...]:
    return tuple(map_findings(found))


def _claim(finding: Finding, steps: Sequence[Step]) -> Claim:
    """Return a finding as a claim: proved where the step that states the same is proved."""
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


def check_step(step: Step, seed: int = 0) -> Verdict:
    """Return the verdict of one step; ``seed`` chooses the evaluation points."""
    return _verdict(step, seed)


@lru_cache(maxsize=2_000)
def _verdict(step: Step, seed: int) -> Verdict:
    """Check a step once, however many derivations carry it."""
    sides = Sides(step.id, step.before, step.after, step.scope)
    few = agreement(sides, seed, FEW)
    if not few.agreed:
        return _without_agreement(few.counterexample, few.reason)
    if _provable(step, {definition.base: definition for definition in step.scope}):
        return Verdict(Status.PROVED, f"normal form, shared with the deriver; {few.agreed}")
    many = agreement(sides, seed, MANY)
    return Verdict(Status.SAMPLED, many.agreed) if many.agreed else _without_agreement(many.counterexample, many.reason)


def _without_agreement(counterexample: str, reason: str) -> Verdict:
    return Verdict(Status.REFUTED, counterexample) if counterexample else Verdict(Status.UNVERIFIED, reason)


def _provable(step: Step, scope: Scope) -> bool:
    """Compare normal forms, the definitions expanded further and further; what has been compared is not again."""
    tried: set[tuple[Expr, Expr]] = set()
    for sides in _forms(step, scope):
        if sides not in tried and equal(*sides):
            return True
        tried.add(sides)
    return False


def _forms(step: Step, scope: Scope) -> Iterator[tuple[Expr, Expr]]:
    """Yield both sides as they stand, then with more and more intermediates replaced by their definitions.

    First moved tensors and the output; then what is made of other intermediates, so that those stay whole; then all.
    """
    before, after = carry_out(step.before, scope), carry_out(step.after, scope)
    yield before, after
    moved = {d.name for d in step.scope if d.name.endswith("'")}
    outer = {base: d for base, d in scope.items() if d.name in moved or f"{d.name}'" in moved or d.entry == step.target}
    if outer:
        # What is made of moved tensors takes its normal form before they are replaced by what they have become.
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
