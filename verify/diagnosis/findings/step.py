"""Findings about the step itself: too large for the loss, or uneven over samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

from verify.diagnosis.advice import GAIN
from verify.diagnosis.findings import thresholds as limit
from verify.diagnosis.findings.evidence import Evidence
from verify.diagnosis.findings.finding import Finding
from verify.diagnosis.record import LayerDiagnosis

_TOLD = 3  # layers for which mild findings are reported


def findings(seen: Evidence) -> Iterator[Finding]:
    """Yield every finding about the step."""
    yield from _too_large(seen)
    ordered = sorted((m for m in seen.judged if m.law != GAIN), key=lambda layer: -seen.share(layer.name))
    spread = [m for m in ordered if m.shares and m.shares.cross < limit.CROSS and m.factors.ratio > limit.SPREAD]
    crossed = [m for m in ordered if m.shares and m.shares.cross >= limit.CROSS]
    yield from (_of_spread(seen, layer) for layer in spread[:_TOLD])
    yield from (_of_cross(seen, layer) for layer in crossed[:_TOLD])


def _too_large(seen: Evidence) -> Iterator[Finding]:
    after, expected = seen.loss_after, sum(layer.fall for layer in seen.layers)
    if after is None or (after <= seen.loss + (limit.RISE - 1) * abs(seen.loss) and math.isfinite(after)):
        return
    curvature = 2 * (after - seen.loss + expected)
    largest = 2 * expected / curvature if math.isfinite(after) and curvature > 0 else math.nan
    advice = f"; at most {seen.rate * largest:.2g} lowers the loss here" if math.isfinite(largest) else ""
    yield Finding(
        kind="step-too-large",
        layer=None,
        index=None,
        evidence={
            "loss after over before": after / seen.loss if seen.loss else math.inf,
            "loss before": seen.loss,
            "loss after": after,
            "expected fall": expected,
            "largest rate that lowers the loss, from the curvature along the step": seen.rate * largest,
        },
        threshold=limit.RISE,
        cause=f"one step takes the loss from {seen.loss:.4g} to {after:.4g}, where the gradient predicts a decrease of "
        f"{expected:.3g}: the rate {seen.rate:g} is too high for the curvature",
        fix=f"lower the rate{advice}; warm-up, gradient clipping or a norm in the network also help",
    )


def _of_spread(seen: Evidence, layer: LayerDiagnosis) -> Finding:
    assert layer.shares is not None
    s, told, tails = layer.factors, layer.extremes, ""
    where: dict[str, object] = {}
    if told is not None:
        where = {
            "largest at": [index for index, _ in told.largest],
            "features with most of the length": [feature for feature, _ in told.features],
            "variation": told.variation,
        }
        if told.expected is not None:
            where["variation of Gaussian inputs"] = told.expected
            if told.variation > limit.HEAVY * told.expected:
                tails = f"; they vary {told.variation / told.expected:.2g} times as much as with Gaussian inputs"
    return Finding(
        kind="self-factor-spread",
        layer=layer.name,
        index=told.largest[0][0][0] if told is not None else None,
        evidence={"ratio": s.ratio, "minimum": s.minimum, "median": s.median, "maximum": s.maximum,
                  "self share": layer.shares.own, **where},
        threshold=limit.SPREAD,
        cause=f"self factors of {layer.name or 'the model'} range from {s.minimum:.3g} to {s.maximum:.3g}: the same "
        f"error moves one sample's activation further than another's{tails}",
        fix=layer.advice or "normalise its input",
        share=layer.shares.own * seen.share(layer.name),
    )  # fmt: skip


def _of_cross(seen: Evidence, layer: LayerDiagnosis) -> Finding:
    assert layer.shares is not None
    return Finding(
        kind="cross-terms-only",
        layer=layer.name,
        index=None,
        evidence={"cross share": layer.shares.cross, "self share": layer.shares.own, "ratio": layer.factors.ratio},
        threshold=limit.CROSS,
        cause=f"{100 * layer.shares.cross:.1f} % of the change of {layer.name or 'the model'} comes from cross terms "
        "between samples: equal self factors would hardly change this step",
        fix="no map of single samples can fix this; centre or decorrelate the inputs, or precondition the gradient "
        "(FOOF)",
        share=layer.shares.cross * seen.share(layer.name),
    )
