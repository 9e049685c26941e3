"""Build the record of each layer from the observed passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from verify.diagnosis.advice import GAIN
from verify.diagnosis.capture import CLOSED, NO_GRAPH, Call
from verify.diagnosis.differentiation import own_names
from verify.diagnosis.extremes import extremes
from verify.diagnosis.findings.evidence import LayerEvidence
from verify.diagnosis.layers import Plan, Unjudged
from verify.diagnosis.non_finite import is_bad
from verify.diagnosis.observe import Observed, dense
from verify.diagnosis.parts import CHANGED, Moved, parts
from verify.diagnosis.probes import Probe, probes_of
from verify.diagnosis.record import LayerDiagnosis, Parts, Shares, Spread, spread
from verify.diagnosis.samples import Shape
from verify.diagnosis.step import Analysis, analyse

UNUSED = "its output does not reach the loss"
UNCALLED = "it is not called on this batch, and its parameters get no gradient"
BY_FUNCTION = "it is not called, but its {names} get a gradient: other code uses them directly"
CLEARED = "its gradient was cleared during the backward pass, by an optimiser that steps there"
EMPTY = "it is called without a single sample"
NOT_FINITE = "the gradient of the loss with respect to its output or its parameters is not finite"


@dataclass
class FirstStep:
    """The first step: the passes before and after with the same random numbers, the parameters, the contributions."""

    first: Observed
    later: Observed
    moved: Moved
    analyses: Mapping[str, Analysis | str]
    probes: Mapping[str, Sequence[Probe]]
    parts: dict[str, Parts | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with torch.no_grad():
            for name, calls in self.first.captured.calls.items():
                later, probes = self.later.captured.calls.get(name, []), self.probes.get(name)
                if not calls[0].site.closed and all(call.traced for call in calls):
                    found = self.analyses[name]
                    known = found if isinstance(found, Analysis) and found.probes is probes else None
                    self.parts[name] = parts(probes, later, self.moved, known) if probes else CHANGED


def chosen_rows(first: Observed, analyses: Mapping[str, Analysis | str]) -> dict[str, Sequence[Probe]]:
    """Return chosen rows of each layer whose calls all received a gradient: those of its analysis if there is one."""
    found: dict[str, Sequence[Probe]] = {}
    for name, calls in first.captured.calls.items():
        analysis = analyses[name]
        if not calls[0].site.closed and all(call.gradient is not None for call in calls):
            found[name] = analysis.probes if isinstance(analysis, Analysis) else probes_of(calls)
    return found


def evidence_of(first: Observed, step: FirstStep | None, values: Mapping[str, Tensor]) -> list[LayerEvidence]:
    """Return each layer's evidence for the rules; without a step, minus the gradient is used as the step."""
    moved, found = step.moved if step else Moved(values, {}, first.gradients, None, first.squares), []
    for name, calls in first.captured.calls.items():
        site = calls[0].site
        if site.gain:
            continue
        sizes = moved.sizes(piece for piece in site.trained_pieces if piece.parameter in first.gradients)
        weight = sizes.weight**0.5 or 1.0
        relative = sizes.update**0.5 / weight, sizes.gradient**0.5 / weight
        found.append(LayerEvidence(name, site.shape, calls, sizes.fall, *relative, _gain(calls[0], moved)))
    return found


def _gain(call: Call, moved: Moved) -> float | None:
    site = call.site
    if site.shape in (Shape.TOKENS, Shape.BAGS) or "weight" not in site.pieces:
        return None
    piece = site.pieces["weight"]
    return (moved.sizes([piece]).weight / piece.of(moved.before).shape[1 if site.transposed else 0]) ** 0.5


def judged_share(
    first: Observed, values: Mapping[str, Tensor], found: Plan, others: Mapping[str, LayerDiagnosis | str]
) -> float:
    """Return the judged layers' share of all trained numbers, counting only parameters that got a gradient."""
    held: dict[str, set[tuple[int, int | None]]] = {}
    for calls in first.captured.calls.values():
        for piece in calls[0].site.trained_pieces:
            held.setdefault(piece.parameter, set()).add((piece.start, piece.stop))
    for name, record in others.items():
        if isinstance(record, LayerDiagnosis):
            module = first.captured.whole[name].module
            names = found.names_of(module)
            for own in own_names(module):
                held.setdefault(names[own], set()).add((0, None))
    judged = 0
    for name, spans in held.items():
        rows = len(values[name]) if values[name].dim() else 1
        covered = {row for start, stop in spans for row in range(start, rows if stop is None else stop)}
        judged += values[name].numel() * len(covered) // max(rows, 1) if name in first.gradients else 0
    total = sum(values[name].numel() for name in first.gradients) or 1
    return min(1.0, judged / total)


def spread_of(calls: Sequence[Call]) -> Spread:
    """Return the spread of the self factors of all calls."""
    return spread(calls[0].factors if len(calls) == 1 else torch.cat([call.factors.reshape(-1) for call in calls]))


def judged_shares(name: str, seen: Observed, values: Mapping[str, Tensor]) -> Analysis | str:
    """Return the analysis of a site's step, or the reason why there is none."""
    calls = seen.captured.calls[name]
    if calls[0].site.closed:
        return CLOSED
    if not all(call.traced for call in calls):
        return NO_GRAPH
    used = [call for call in calls if call.gradient is not None]
    if not used:
        return UNUSED
    names = [piece.parameter for piece in calls[0].site.trained_pieces]
    if not all(name in seen.gradients for name in names):
        return CLEARED
    step = {name: seen.gradients[name] for name in names}
    parameters = not seen.finite and any(is_bad(dense(g)) for g in step.values())
    if parameters or any(is_bad(c.gradient) for c in used if c.gradient is not None):
        return NOT_FINITE
    with torch.no_grad():
        return analyse(used, values, step)


def shares_of(found: Analysis | str) -> Shares | str:
    """Return the shares of an analysis, or the reason why there are none."""
    return found.shares if isinstance(found, Analysis) else found


def layer_record(
    calls: Sequence[Call], history: tuple[Spread, ...], judged: Shares | str, parts: Parts | str | None
) -> LayerDiagnosis:
    """Return the record of one layer from its calls and the analysis of its step."""
    site, x = calls[0].site, calls[0].x
    tokens = site.shape is Shape.TOKENS or x.dim() > 2 or "MultiheadAttention" in site.type
    tokens = tokens and site.shape is not Shape.BAGS
    sample = "entry" if site.gain else "position" if site.shape is Shape.PATCHES else "token" if tokens else "sample"
    notes = []
    if len(calls) > 1:
        notes.append(f"called {len(calls)} times: the samples of all calls count together")
    if getattr(site.view, "padding_idx", None) is not None:
        notes.append("the row of its padding token is not trained; its self factor is 0")
    if site.shared_with:
        notes.append(f"shares parameters with {', '.join(site.shared_with)}")
    elif isinstance(judged, Shares) and judged.elsewhere > 0:
        notes.append("its parameters are also used outside its own calls")
    if set(site.trained) != set(site.pieces) and not site.closed:
        notes.append(f"only its {site.trained[0]} is trained")
    return LayerDiagnosis(
        name=site.name,
        type=site.type,
        sample=sample,
        calls=len(calls),
        law=GAIN if site.gain else f"{site.law.layer}>{site.law.map}" if site.law.map else site.law.layer,
        history=history,
        shares=judged if isinstance(judged, Shares) else None,
        missing=judged if isinstance(judged, str) else "",
        note="; ".join(notes),
        parts=parts if isinstance(parts, Parts) else None,
        extremes=None if site.gain or site.closed else extremes(calls),
    )


def unjudged_of(found: Plan, seen: Observed) -> tuple[Unjudged, ...]:
    """Return every layer that was not judged: unknown, refused when called, never called, or used by a function."""
    captured = seen.captured

    def _uncalled(name: str, module: nn.Module) -> str:
        known = {id(p): word for word, p in module.named_parameters()}
        used = [known[k] for k, first in found.first_names.items() if k in known and first in seen.gradients]
        return BY_FUNCTION.format(names=" and ".join(used)) if used else UNCALLED

    never = [
        Unjudged(site.name, site.type, EMPTY if site.name in captured.empty else _uncalled(site.name, module))
        for module, site in found.sites.items()
        if site.name not in captured.calls and site.name not in captured.refused
    ]
    parts_met = [*captured.calls, *captured.refused]
    idle = [
        Unjudged(attention.name, type(module).__name__, _uncalled(attention.name, module))
        for module, attention in found.attention.items()
        if not any(part.startswith(f"{attention.name}." if attention.name else "") for part in parts_met)
    ]
    return (*found.unjudged, *captured.refused.values(), *never, *idle)
