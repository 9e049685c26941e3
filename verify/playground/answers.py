"""Answer the page's requests to Python: JSON in, JSON out.

This runs in the browser, without torch and the rest of ``verify``, so it imports only ``derive`` and ``codegen``.
"""

from __future__ import annotations

import itertools
import json
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sympy import Expr, Indexed

from derive.cancel import kappa
from derive.errors import UsageError
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import Real
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point
from derive.evaluation.reading import free_indices
from derive.evaluation.sizes import Sizes
from derive.export import html, mathml
from derive.export.blocks import Paragraph, Prose
from derive.export.json_schema import derivation_to_json
from derive.export.latex import fragment
from derive.export.limits import assumptions, limit_prose
from derive.export.linebreak import break_lines
from derive.export.prose import inline, plain
from derive.export.steps import step_equation
from derive.export.summary import full_derivation
from derive.export.symbols import Notation, notation_for
from derive.export.terminal import ANSWERS
from derive.forward_map import BATCH, Layer, Tensor
from derive.layers import layer as named
from derive.record import CancellingMap, Derivation, Step
from derive.spec import loads_spec

Answer = dict[str, Any]
# Smallest and largest power of ten that scales the inputs, and the number of points.
_LEAST, _GREATEST, _STEPS = Decimal(-2), Decimal(1), 37
_SEED, _VOLUME = 3, 3  # seed of the random numbers, and bound on the sizes, for plotting a factor


def answer(request: str) -> str:
    """Answer one request about a layer, ``{"layer": text, "part": name}`` as JSON.

    The text is a layer's name, a composition, or a layer file. On failure the answer holds ``error``, with ``line`` and
    ``column`` for a mistake in the text, or ``defect`` for a bug in the program.
    """
    asked = json.loads(request)
    try:
        told = PARTS[asked["part"]](asked["layer"].strip())
    except UsageError as problem:
        place = {key: getattr(problem, key, None) for key in ("line", "column")}
        told = {"error": str(problem), **place}
    except Exception as problem:
        told = {"error": f"{type(problem).__name__}: {problem}", "defect": traceback.format_exc()}
    return json.dumps(told)


@lru_cache(maxsize=8)
def _layer(text: str) -> Layer:
    """Return the layer given by name (one line without an equals sign) or as a layer file."""
    if "\n" in text or "=" in text:
        return loads_spec(text, "layer.toml")
    return named(text)


@lru_cache(maxsize=8)
def _derivation(text: str) -> Derivation:
    return full_derivation(_layer(text))


@lru_cache(maxsize=8)
def _checked(text: str) -> Derivation:
    return _derivation(text).check()


def _notation(derivation: Derivation) -> Notation:
    return notation_for(derivation.layer, *derivation.layer.parts)


def _formula(latex: str) -> str:
    """Return a formula as MathML; a long one is broken into lines."""
    return "".join(mathml.formula(line, display=True) for line in break_lines(latex))


def _words(prose: Prose) -> str:
    """Return a sentence as HTML, with its formulas as MathML."""
    return html.render([Paragraph(prose)])


def _result(text: str) -> Answer:
    """Return the layer's forward map and the effect of a step on it."""
    derivation = _derivation(text)
    layer, factor, notation = derivation.layer, derivation.self_factor, _notation(derivation)
    given = [f"{notation(d.entry)} = {notation(d.expression)}" for d in layer.definitions]
    return {
        "name": layer.name,
        "title": layer.title if layer.title == layer.name else layer.title[:1].upper() + layer.title[1:],
        "forward": [_formula(f"{notation(layer.output.entry)} = {notation(layer.output.expression)}")],
        "where": [_formula(latex) for latex in given],
        "kernel": _formula(notation(derivation.kernel)),
        "factor": _formula(notation(factor.expression)),
        "constant": not factor.expression.has(Indexed),
        "shape": factor.shape,
        "parameter_free": factor.parameter_free,
        "exact": derivation.exact_in_eta,
        "cancels": [found.name for found in derivation.solutions if found.layer == layer],
        "within": sorted({found.layer.title for found in derivation.solutions if found.layer != layer}),
    }


def _maps(text: str) -> Answer:
    """Return the cancelling maps with their properties, and why other kinds do not exist."""
    derivation = _derivation(text)
    kinds = {"any": "cancelling"}
    refusals = [f"There is no {kinds.get(r.kind, r.kind)} map: {r.reason}." for r in derivation.refusals]
    told = [_words(inline(words, _notation(derivation))) for words in refusals]
    return {"maps": [_map(found, derivation) for found in derivation.solutions], "refusals": told}


def _map(found: CancellingMap, derivation: Derivation) -> Answer:
    notation = notation_for(found.mapped, derivation.layer, *derivation.layer.parts)
    output = found.mapped.output
    return {
        "name": found.name,
        "kind": found.kind,
        "of": "" if found.layer == derivation.layer else found.layer.title,
        "formula": _formula(f"{notation(output.entry)} = {notation(output.expression)}"),
        "where": [_formula(f"{notation(d.entry)} = {notation(d.expression)}") for d in found.mapped.definitions],
        "factor": _formula(notation(found.self_factor)),
        "residual": _formula(notation(found.residual)),
        "properties": [
            [known.name.replace("_", " "), ANSWERS[known.value], known.basis, _words(inline(known.reason, notation))]
            for known in found.properties
        ],
        "limits": [
            ["at zero", _words(limit_prose(found.zero, found.energy.name, notation))],
            ["at infinity", _words(limit_prose(found.infinity, found.energy.name, notation))],
        ],
        "assumes": [_words(inline(stated, notation)) for stated in assumptions(found)],
    }


def _steps(text: str) -> Answer:
    """Return every step with its verdict: first the layer's, then the maps'."""
    derivation = _checked(text)
    groups = [(derivation.layer.title, derivation.steps, _notation(derivation))]
    groups += [(f"{m.name} map", m.steps, notation_for(m.mapped, derivation.layer)) for m in derivation.solutions]
    seen: set[str] = set()
    told, verdicts = [], []
    for title, steps, notation in groups:
        own = [step for step in steps if step.id not in seen]
        verdicts += [step.verdict.status.value for step in own]
        seen |= {step.id for step in own}
        told.append({"title": title, "steps": [_step(step, notation) for step in own]})
    claims = [*derivation.claims, *(claim for found in derivation.solutions for claim in found.claims)]
    said = [claim.verdict.status.value for claim in claims]
    return {"groups": told, "steps": _counted(verdicts), "statements": _counted(said)}


def _counted(verdicts: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(verdicts).items()))


def _step(step: Step, notation: Notation) -> Answer:
    return {
        "id": step.id,
        "rule": plain(step.rule),
        "formula": mathml.displayed(step_equation(step, notation)),
        "status": step.verdict.status.value,
        "method": step.verdict.method,
    }


def _latex(text: str) -> Answer:
    return {"text": fragment(_checked(text))}


def _json(text: str) -> Answer:
    """Return the output of ``affdiv derive LAYER --check --json``."""
    return {"text": json.dumps(derivation_to_json(_checked(text)))}


def _code(text: str) -> Answer:
    """Return the files that ``affdiv generate --targets torch`` writes, without those common to all packages."""
    from codegen.compiler import build_layer

    layer = _layer(text)
    package = re.sub(r"\W+", "_", layer.name).strip("_").lower()
    if layer.parts:
        raise UsageError(f"{layer.name}: no code yet for a layer with several outputs")
    texts = build_layer(layer, package, targets=("torch",))
    own = {name: content for name, content in texts.items() if name.endswith(".py") and "runtime/" not in name}
    shown = {name: content for name, content in own.items() if content.count("\n") > 12}
    first = sorted(shown, key=lambda name: (not name.startswith("kernels/torch/"), name.endswith("plain.py"), name))
    return {"package": package, "files": {f"{package}/{name}": shown[name] for name in first}}


def _plot(text: str) -> Answer:
    """Return curves of the self factor, for the layer and each map, against the scale of the inputs."""
    derivation = _derivation(text)
    layer = derivation.layer
    own = _curve(layer, derivation.self_factor.expression)
    lines = [{"label": layer.title, "points": own}]
    for found in derivation.solutions:
        if found.layer == layer:
            factor = found.self_factor.xreplace({kappa: found.kappa_default})
            lines.append({"label": f"{found.name} map", "points": _curve(found.mapped, factor)})
    inputs = [tensor.name for tensor in layer.inputs]
    return {"lines": lines, "input": inputs[0] if len(inputs) == 1 else "all inputs", "inputs": inputs}


def _curve(layer: Layer, factor: Expr) -> list[list[float]]:
    """Return pairs (norm of one sample's inputs, self factor), with everything else drawn once.

    Points that cannot be evaluated, such as singularities, are left out.
    """
    inputs = [tensor for tensor in layer.inputs if tensor.values is None]
    expressions = [factor, layer.output.expression, *(d.expression for d in layer.definitions)]
    lengths = [axis for tensor in (*layer.inputs, *layer.parameters) for axis in tensor.axes]
    sizes = Sizes.of(expressions, lengths).draw(set(), _SEED, _VOLUME) | {BATCH.size: 1}
    at = dict.fromkeys(free_indices(factor), 0)
    pairs = []
    for number in range(_STEPS):
        scale = Decimal(10) ** (_LEAST + (_GREATEST - _LEAST) * number / (_STEPS - 1))
        stretch = {tensor.name: scale for tensor in inputs}
        point = Point(_SEED, sizes, Real(), {d.base: d for d in layer.definitions}, stretch=stretch)
        with point.field.context(), suppress(NotEvaluable, ArithmeticError):
            pairs.append([_norm(inputs, point), float(evaluate(factor, at, point))])
    return pairs


def _norm(inputs: Sequence[Tensor], point: Point) -> float:
    """Return the norm of all entries of one sample's inputs."""
    total = Decimal(0)
    for tensor in inputs:
        for place in itertools.product(*(range(point.size(axis)) for axis in tensor.axes)):
            total += point.draw(tensor.name, place) ** 2
    return float(total.sqrt())


PARTS: Mapping[str, Callable[[str], Answer]] = {
    "result": _result,
    "maps": _maps,
    "plot": _plot,
    "code": _code,
    "steps": _steps,
    "latex": _latex,
    "json": _json,
}
