"""Findings about the network: growth with depth, saturation, dead units, vanishing gradients, a dominating layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from verify.diagnosis.findings import thresholds as limit
from verify.diagnosis.findings.evidence import Evidence, LayerEvidence
from verify.diagnosis.findings.finding import Finding


def findings(seen: Evidence) -> Iterator[Finding]:
    """Yield every finding about the network."""
    yield from _growth(seen)
    yield from _scores(seen)
    yield from _units(seen)
    yield from _slopes(seen)
    yield from _dominating(seen)


def _growth(seen: Evidence) -> Iterator[Finding]:
    groups: dict[str, list[tuple[LayerEvidence, float]]] = {}
    for layer in seen.layers:
        square = layer.mean_square
        if square:
            groups.setdefault(layer.alike, []).append((layer, square))
    found = []
    for group in groups.values():
        squares = [square for _, square in group]
        rising = sum(b > a for a, b in pairwise(squares))
        growth = max(squares[-1], max(squares[len(squares) // 2 :])) / squares[0]
        if len(group) >= limit.GROWTH_LAYERS and growth > limit.GROWTH and rising >= 0.7 * (len(group) - 1):
            found.append((growth, [layer for layer, _ in group], squares))
    if found:
        growth, layers, squares = max(found, key=lambda entry: entry[0])
        each = growth ** (1 / (len(layers) - 1))
        steps = [b / a for a, b in pairwise(squares)]
        steepest = layers[max(range(len(steps)), key=steps.__getitem__) + 1]
        yield Finding(
            kind="growing-activations",
            layer=layers[-1].name,
            index=None,
            evidence={
                "growth of the mean square": growth,
                "growth a layer": each,
                "mean squares": squares,
                "steepest before": steepest.name,
            },
            threshold=limit.GROWTH,
            cause=f"the mean square of the inputs of layers {layers[0].name} to {layers[-1].name} grows by a factor "
            f"of {each:.3g} "
            f"per layer, {growth:.3g} in all: their self factors grow with it, so that no single rate fits them",
            fix="put a norm (LayerNorm, RMSNorm) before or after each block, or divide each block's output by the "
            "square root of the depth",
            share=sum(seen.share(layer.name) for layer in layers[len(layers) // 2 :]),
        )


def _scores(seen: Evidence) -> Iterator[Finding]:
    attention = [s for s in seen.activity.scores if not s.logarithmic and s.keys >= 4]
    wide = [s for s in attention if s.deviation > limit.SCORE_DEVIATION]
    if wide:
        worst = max(wide, key=lambda s: s.deviation)
        yield Finding(
            kind="saturated-softmax",
            layer=worst.layer or None,
            index=None,
            evidence={
                "deviation of the scores": worst.deviation,
                "mean largest probability": worst.largest,
                "keys": worst.keys,
                "softmaxes of": len(attention),
                "wide": len(wide),
            },
            threshold=limit.SCORE_DEVIATION,
            cause=f"the scores of the softmax in {worst.layer or 'the model'} have a standard deviation of "
            f"{worst.deviation:.3g}, "
            "where scaled products of standardised vectors have about 1: nearly all weight falls on one entry, and "
            "hardly any gradient reaches the others",
            fix="divide scores by the square root of the head's width (as scaled_dot_product_attention does), or "
            "normalise queries and keys",
            share=len(wide) / len(attention),
        )
    logits = [s for s in seen.activity.scores if s.logarithmic and s.deviation > limit.LOGIT_DEVIATION]
    for worst in logits[-1:]:
        even = math.log(worst.keys)
        if seen.loss > even:
            yield Finding(
                kind="saturated-softmax",
                layer=seen.layers[-1].name if seen.layers else None,
                index=None,
                evidence={"deviation of the logits": worst.deviation, "loss": seen.loss, "loss of even odds": even},
                threshold=limit.LOGIT_DEVIATION,
                cause=f"the logits have a standard deviation of {worst.deviation:.3g} and the loss is above that of "
                "even odds: the model is confident and wrong",
                fix="initialise the last layer with smaller weights, or put a norm before it",
            )


def _units(seen: Evidence) -> Iterator[Finding]:
    used = seen.activity.units
    full = [u for u in used if u.saturated > limit.SATURATED_SHARE]
    if full:
        worst = max(full, key=lambda u: u.saturated)
        yield Finding(
            kind="saturated-units",
            layer=worst.layer or None,
            index=None,
            evidence={"share saturated": worst.saturated, "function": worst.function, "layers": len(full)},
            threshold=limit.SATURATED_SHARE,
            cause=f"{100 * worst.saturated:.0f} % of the entries of {worst.function} in {worst.layer or 'the model'} "
            "are saturated: the slope there is almost 0",
            fix="make its input smaller: standardise the data, use smaller initial weights, or put a norm before it",
            share=len(full) / len(used),
        )
    dead = [u for u in used if u.dead > limit.DEAD_SHARE and u.rows >= 8]
    if dead:
        worst = max(dead, key=lambda u: u.dead)
        yield Finding(
            kind="dead-units",
            layer=worst.layer or None,
            index=None,
            evidence={"share dead": worst.dead, "units": worst.units, "samples": worst.rows, "layers": len(dead)},
            threshold=limit.DEAD_SHARE,
            cause=f"{100 * worst.dead:.0f} % of the {worst.units} units after {worst.function} in "
            f"{worst.layer or 'the model'} are active for no sample: no gradient reaches their weights",
            fix="restart with zero biases and a lower rate, or use an activation with a slope everywhere (GELU, "
            "LeakyReLU)",
            share=len(dead) / len(used),
        )


def _slopes(seen: Evidence) -> Iterator[Finding]:
    layers = [layer for layer in seen.layers if layer.relative_gradient > 0]
    if len(layers) < 4:
        return
    sizes = [layer.relative_gradient for layer in layers]
    quarter = sorted(sizes[: max(1, len(sizes) // 4)])
    ratio = quarter[len(quarter) // 2] / sizes[-1]
    middle = sizes[len(sizes) // 2] / sizes[-1]
    if ratio < limit.VANISHING and middle < limit.VANISHING_MIDDLE and _mostly_rising(sizes):
        yield Finding(
            kind="vanishing-gradients",
            layer=layers[0].name,
            index=None,
            evidence={"ratio": ratio, "gradient over weight": sizes},
            threshold=limit.VANISHING,
            cause=f"gradients shrink from the last layer to the first by {1 / ratio:.3g}, relative to the weights",
            fix="use activations with a slope of 1 (ReLU, GELU) and an initialisation made for them; add shortcuts or "
            "norms",
        )
    if ratio > limit.EXPLODING and middle > 1 / limit.VANISHING_MIDDLE and _mostly_rising(sizes[::-1]):
        yield Finding(
            kind="exploding-gradients",
            layer=layers[0].name,
            index=None,
            evidence={"ratio": ratio, "gradient over weight": sizes},
            threshold=limit.EXPLODING,
            cause=f"gradients grow from the last layer to the first by {ratio:.3g}, relative to the weights",
            fix="use smaller initial weights, add norms, or clip the gradient's norm",
        )


def _mostly_rising(sizes: Sequence[float]) -> bool:
    return sum(b > a for a, b in pairwise(sizes)) >= 0.6 * (len(sizes) - 1)


def _dominating(seen: Evidence) -> Iterator[Finding]:
    if len(seen.layers) < 3:
        return
    top = max(seen.layers, key=lambda layer: seen.share(layer.name))
    share = seen.share(top.name)
    others = sorted(layer.relative_step for layer in seen.layers if layer is not top)
    ratio = top.relative_step / max(others[len(others) // 2], 1e-300)
    if share > limit.DOMINATING and ratio > limit.DOMINATING_RATIO:
        evidence = {"share of the expected fall of the loss": share, "relative step over the median layer's": ratio}
        yield _of_dominating(
            top.name, share, limit.DOMINATING, evidence,
            f"{100 * share:.1f} % of the expected fall of the loss comes from {top.name}",
        )  # fmt: skip
        return
    yield from _loud(seen)


def _loud(seen: Evidence) -> Iterator[Finding]:
    """Yield a finding for a layer whose weights, or inputs, are far larger than the others'."""
    gains = [(layer.gain, layer) for layer in seen.layers if layer.gain]
    if len(gains) >= 3:
        gain, loud = max(gains, key=lambda entry: entry[0])
        ratio = gain / sorted(g for g, layer in gains if layer is not loud)[(len(gains) - 1) // 2]
        if ratio > limit.GAIN_RATIO:
            words = f"the weights of {loud.name} are {ratio:.3g} times as large as the median layer's (by gain)"
            yield _of_dominating(loud.name, 1.0, limit.GAIN_RATIO, {"gain over the median layer's": ratio}, words)
            return
    squares = [(layer.mean_square, layer) for layer in seen.layers if layer.mean_square]
    for (before, _), (after, layer) in pairwise(squares):
        if after > limit.JUMP * before and after > limit.LARGE_INPUT**2:
            words = (
                f"the inputs of {layer.name} have {after / before:.3g} times the mean square of the previous layer's"
            )
            yield _of_dominating(layer.name, 1.0, limit.JUMP, {"jump of the mean square": after / before}, words)
            return


def _of_dominating(layer: str, share: float, threshold: float, evidence: dict[str, float], words: str) -> Finding:
    return Finding(
        kind="dominating-layer",
        layer=layer,
        index=None,
        evidence=evidence,
        threshold=threshold,
        cause=f"{words}: at a rate small enough for it, the other layers hardly move",
        fix="initialise its weights like the others', put a norm before it, or give it its own learning rate",
        share=share,
    )
