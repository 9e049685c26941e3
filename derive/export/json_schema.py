"""Derivations and maps as JSON, schema ``affdiv.derivation/1``, and back.

Every formula is given as ``text`` and ``latex`` for people, and once more under ``expression`` as a tree (``trees``)
for programs: ``derivation_from_json`` reads only the trees, so a derivation survives the round trip exactly.

``scale_invariant``, ``injective``, ``singular_at_zero`` and ``bounded`` of a map are true, false or null. They are null
if evaluation found no counter-example but nothing is derived, or if the question does not apply. ``established`` says
for each how it is known (``basis``: derived, counterexample, no counterexample, undecided, not applicable) and why.
``limit_zero`` and ``limit_infinity`` are text; an unknown one begins with ``unknown:`` or ``not applicable:``.
``singular_where`` lists the expressions that all vanish where the map is singular; it is empty for a map that is
singular only where the layer itself is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sympy import Expr

from derive.export.prose import plain
from derive.export.record_trees import record_from_tree, record_tree
from derive.export.steps import step_equation
from derive.export.symbols import Notation, notation_for
from derive.export.text import text
from derive.export.trees import TreeError
from derive.forward_map import Layer
from derive.record import CancellingMap, Claim, Derivation, Property, Step

SCHEMA = "affdiv.derivation/1"
Json = dict[str, Any]


def derivation_to_json(derivation: Derivation) -> Json:
    """Return a derivation in the schema ``affdiv.derivation/1``."""
    notation = notation_for(derivation.layer)
    factor = derivation.self_factor
    return {
        "schema": SCHEMA,
        "layer": derivation.layer.name,
        "title": derivation.layer.title,
        "rule": derivation.rule,
        "exact_in_eta": derivation.exact_in_eta,
        "order_in_eta": derivation.order_in_eta,
        "samples": [index.name for index in derivation.samples],
        "units": [index.name for index in derivation.units],
        "self_factor": {
            **_formula(factor.expression, notation),
            "shape": factor.shape,
            "isotropic": factor.isotropic,
            "parameter_free": factor.parameter_free,
        },
        "cross_terms": _formula(derivation.cross_terms, notation),
        "kernel": _formula(derivation.kernel, notation),
        **_parts(derivation.layer),
        "steps": [step_to_json(step, notation) for step in derivation.steps],
        "claims": [claim_to_json(claim) for claim in derivation.claims],
        "solutions": [map_to_json(found) for found in derivation.solutions],
        "refusals": [{"kind": refusal.kind, "reason": plain(refusal.reason)} for refusal in derivation.refusals],
        "expression": record_tree(replace(derivation, solutions=())),
    }


def _parts(layer: Layer) -> Json:
    """Return the parts of a layer that has several, in the order in which ``--of N`` counts them."""
    parts = [(part.name, [p.name for p in part.parameters]) for part in layer.parts]
    parts = parts or [(group.name, list(group.parameters)) for group in layer.groups]
    return {"parts": [{"name": name, "parameters": of} for name, of in parts]} if len(parts) > 1 else {}


def map_to_json(found: CancellingMap) -> Json:
    """Return a cancelling map as one entry of ``solutions``."""
    notation = notation_for(found.mapped)
    return {
        "name": found.name,
        "layer": found.layer.name,
        "kind": found.kind,
        "map": _formula(found.map, notation),
        "intermediates": [{"name": d.name, **_formula(d.expression, notation)} for d in found.mapped.definitions],
        "scales": {name: _formula(scale, notation) for name, scale in found.scales},
        "self_factor": _formula(found.self_factor, notation),
        "residual": _formula(found.residual, notation),
        "kappa": text(found.kappa_default),
        **{known.name: known.value for known in found.properties},
        "established": {known.name: _established(known) for known in found.properties},
        "limit_zero": found.limit_zero,
        "limit_infinity": found.limit_infinity,
        "singular_where": [f"{text(zero)} = 0" for zero in found.singular],
        "weight_scale": _formula(found.weight_scale, notation),
        "angle": None if found.angle is None else _formula(found.angle, notation),
        "decomposition": {name: _formula(part, notation) for name, part in found.decomposition},
        "assumptions": list(found.assumptions),
        "steps": [step_to_json(step, notation) for step in found.steps],
        "claims": [claim_to_json(claim) for claim in found.claims],
        "expression": record_tree(found),
    }


def _established(known: Property) -> Json:
    """Return how a property was established; ``value`` is null if it is open or does not apply."""
    return {"value": known.value, "basis": known.basis, "reason": plain(known.reason)}


def solutions_to_json(derivation: Derivation) -> Json:
    """Return the cancelling maps of a derivation, and the kinds that do not exist, without its steps."""
    full = derivation_to_json(derivation)
    kept = ("schema", "layer", "title", "rule", "self_factor", "solutions", "refusals")
    return {key: full[key] for key in kept}


def step_to_json(step: Step, notation: Notation) -> Json:
    """Return a step: id, rule, both sides as text, the equation as LaTeX, and its verdict."""
    beside = (step.target,)
    return {
        "id": step.id,
        "rule": plain(step.rule),
        "target": text(step.target, notation.hints),
        "before": text(step.before, notation.hints, beside),
        "after": text(step.after, notation.hints, beside),
        "latex": step_equation(step, notation).latex,
        "status": step.verdict.status.value,
        "method": step.verdict.method,
    }


def claim_to_json(claim: Claim) -> Json:
    """Return a statement of a result with its verdict."""
    verdict = claim.verdict
    return {
        "id": claim.id,
        "statement": plain(claim.statement),
        "status": verdict.status.value,
        "method": verdict.method,
    }


def derivation_from_json(data: Mapping[str, Any]) -> Derivation:
    """Return the derivation that ``derivation_to_json`` wrote; raise TreeError for anything else."""
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise TreeError(f"not a derivation: the schema must be {SCHEMA!r}")
    solutions = data.get("solutions")
    if not isinstance(solutions, list):
        raise TreeError("not a derivation: 'solutions' must be a list")
    derivation: Derivation = _read(data, Derivation)
    return replace(derivation, solutions=tuple(map_from_json(found) for found in solutions))


def map_from_json(data: Mapping[str, Any]) -> CancellingMap:
    """Return the map that ``map_to_json`` wrote; raise TreeError for anything else."""
    found: CancellingMap = _read(data, CancellingMap)
    return found


def _read(data: object, kind: type[Any]) -> Any:
    if not isinstance(data, Mapping):
        raise TreeError(f"not a {kind.__name__}: an object is needed")
    try:
        return record_from_tree(data.get("expression"), kind)
    except (TypeError, ValueError, AttributeError, RecursionError, ArithmeticError) as problem:
        if isinstance(problem, TreeError):
            raise
        raise TreeError(f"not a {kind.__name__}: SymPy refuses it ({type(problem).__name__})") from None


def _formula(expression: Expr, notation: Notation) -> dict[str, str]:
    return {"text": text(expression, notation.hints), "latex": notation(expression)}
