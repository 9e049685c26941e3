"""Findings about the data: their scale, outlying features and samples, identical samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from verify.diagnosis.findings import thresholds as limit
from verify.diagnosis.findings.evidence import Evidence, LayerEvidence
from verify.diagnosis.findings.finding import Finding
from verify.diagnosis.samples import Shape


def findings(seen: Evidence) -> Iterator[Finding]:
    """Yield every finding about the data."""
    broadcast = seen.activity.broadcasts
    if broadcast:
        yield _of_broadcast(seen)
    samples = 0
    for name, tensor in seen.inputs.items():
        if tensor.is_floating_point() and tensor.dim() > 0 and tensor.numel() > 1:
            for found in _of_numbers(seen, name, tensor.detach().float()):
                samples += found.kind == "outlying-sample"
                yield found
            yield from _repeated(seen, name, tensor)
        elif tensor.dim() == 2 and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            yield from _padded(seen, name, tensor)
    if not samples:
        yield from _of_gradients(seen)


def _of_broadcast(seen: Evidence) -> Finding:
    met = seen.activity.broadcasts[0]
    return Finding(
        kind="broadcast-loss",
        layer=None,
        index=None,
        evidence={"result": met.result, "prediction": met.trained, "target": met.other, "function": met.function},
        threshold=None,
        cause=f"{met.function} broadcasts prediction {met.trained} and target {met.other} to {met.result}: "
        "every prediction is compared with every target, and the best answer is their mean",
        fix="give both the same shape: prediction.squeeze(-1), or target.unsqueeze(-1)",
    )


def _by_feature(seen: Evidence, tensor: Tensor, reader: LayerEvidence | None) -> Tensor:
    """Return a tensor as (samples, places, features)."""
    if tensor.dim() == 1:
        return tensor.reshape(-1, 1, 1)
    channels_first = tensor.dim() > 3 or (tensor.dim() == 3 and reader is not None and reader.shape is Shape.PATCHES)
    moved = tensor.movedim(1, -1) if channels_first else tensor
    return moved.reshape(len(tensor), -1, moved.shape[-1])


def _of_numbers(seen: Evidence, name: str, tensor: Tensor) -> Iterator[Finding]:
    """Yield findings on features, scale and samples; the longest eighth of samples counts for the last alone."""
    reader = seen.reader(seen.inputs[name])
    layer, share = (reader.name, seen.share(reader.name)) if reader else (None, 1.0)
    rows = _by_feature(seen, tensor, reader)
    lengths = rows.square().sum((1, 2))
    few = len(rows) // 8 if len(rows) >= 4 else 0
    usual = rows[lengths.argsort()[: len(rows) - max(few, int(len(rows) >= 4))]]
    features = usual.square().mean((0, 1)).sqrt()
    outliers = _outlying(features)
    if len(outliers):
        energy = float(features[outliers].square().sum() / features.square().sum())
        ratio = float(features[outliers].max() / features[features > 0].median())
        yield Finding(
            kind="outlying-feature",
            layer=layer,
            index=outliers[0] if len(outliers) == 1 else outliers,
            evidence={"ratio": ratio, "share of the squared length": energy, "tensor": name},
            threshold=limit.FEATURE_RATIO,
            cause=f"feature {', '.join(map(str, outliers))} of {name} is {ratio:.3g} times as large as the median "
            "feature: it accounts for almost all of the self factors, and so of the step",
            fix="standardise each feature: subtract its mean and divide by its deviation",
            share=share,
        )
    rest = features[[k for k in range(len(features)) if k not in outliers]]
    scale = float(rest.square().mean().sqrt()) if len(rest) else 0.0
    if scale >= limit.LARGE_INPUT or 0 < scale <= limit.SMALL_INPUT:
        yield _of_scale(name, layer, scale, rows, share)
    yield from _long_samples(name, layer, lengths, share)


def _outlying(features: Tensor) -> list[int]:
    """Return the features that are far larger than the median and hold nearly all of the squared length."""
    if len(features) < 3 or not bool((features > 0).any()):
        return []
    found = (features > limit.FEATURE_RATIO * features[features > 0].median()).nonzero().flatten()
    energy = features[found].square().sum() / features.square().sum()
    few = len(found) <= max(1, len(features) // 8)
    return found.tolist() if few and energy > limit.FEATURE_ENERGY else []


def _of_scale(name: str, layer: str | None, scale: float, rows: Tensor, share: float) -> Finding:
    large, factor = scale >= limit.LARGE_INPUT, rows.shape[-1] * scale**2
    what = "large" if large else "small"
    effect = (
        f"self factors at the first layer are about {factor:.2g}, where standardised data give {rows.shape[-1]}"
        if large
        else "in the first layer the bias moves the output and the weights hardly do"
    )
    return Finding(
        kind="unscaled-input",
        layer=layer,
        index=None,
        evidence={"rms": scale, "mean": float(rows.mean()), "deviation": float(rows.std()), "tensor": name},
        threshold=limit.LARGE_INPUT if large else limit.SMALL_INPUT,
        cause=f"the numbers of {name} are {what} (rms {scale:.3g}): {effect}",
        fix="standardise the data: subtract each feature's mean and divide by its deviation (pixels: divide by 255)",
        share=share,
    )


def _long_samples(name: str, layer: str | None, lengths: Tensor, share: float) -> Iterator[Finding]:
    median = lengths.median()
    found = (lengths > limit.SAMPLE_RATIO * median.clamp_min(1e-30)).nonzero().flatten().tolist()
    if len(lengths) < 4 or not 0 < len(found) <= max(1, len(lengths) // 8) or median == 0:
        return
    ratio = float(lengths.max() / median)
    yield Finding(
        kind="outlying-sample",
        layer=layer,
        index=found[0] if len(found) == 1 else found,
        evidence={"ratio": ratio, "squared length": float(lengths.max()), "tensor": name},
        threshold=limit.SAMPLE_RATIO,
        cause=f"sample {', '.join(map(str, found))} of {name} has {ratio:.3g} times the median squared length: it "
        "has the largest self factors and accounts for most of the step",
        fix="check this sample for a wrong unit or a missing value written as a large number; correct, clip or drop it",
        share=share,
    )


def _repeated(seen: Evidence, name: str, tensor: Tensor) -> Iterator[Finding]:
    flat = tensor.detach().reshape(len(tensor), -1)
    if len(flat) < 8 or flat.shape[1] < 2 or not bool(flat.isfinite().all()):
        return
    same = _most_alike(flat)
    share = len(same) / len(flat)
    if share >= limit.DUPLICATE_SHARE and len(same) >= 3:
        yield Finding(
            kind="duplicate-samples",
            layer=None,
            index=same,
            evidence={"share": share, "samples": len(same), "of": len(flat), "tensor": name},
            threshold=limit.DUPLICATE_SHARE,
            cause=f"{len(same)} of {len(flat)} samples of {name} are the same, bit for bit: their gradients add up and "
            "outweigh the others'",
            fix="drop the copies, or mask them in the loss if they are padding; check how batches are drawn",
            share=share,
        )
    elif tensor.dim() == 3:
        yield from _padded(seen, name, tensor)


def _most_alike(rows: Tensor) -> list[int]:
    """Return the largest group of rows that are identical, bit for bit.

    Identical rows have identical sums, so only rows with the most common sums are compared.
    """
    weights = torch.linspace(0.5, 1.5, rows.shape[1], device=rows.device).sin()
    sums = (rows * weights).sum(1)
    _, which, counts = torch.unique(sums, return_inverse=True, return_counts=True)
    place = (which == counts.argmax()).nonzero().flatten()
    return place[(rows[place] == rows[place[0]]).all(1)].tolist()


def _padded(seen: Evidence, name: str, tensor: Tensor) -> Iterator[Finding]:
    """Yield a finding where the ends of sequences repeat one entry and the loss has a gradient there."""
    inside = _runs(tensor)
    share = float(inside.float().mean())
    if share < limit.PADDING_SHARE or tensor.shape[1] < 4:
        return
    gradient = _by_position(seen, tensor.shape[0], tensor.shape[1])
    if gradient is None:
        return
    counted = float((gradient[inside] > 0).float().mean())
    if counted < 0.5:
        return
    part = float(gradient[inside].sum() / gradient.sum())
    positions = inside.flatten().nonzero().flatten().tolist()
    yield Finding(
        kind="duplicate-samples",
        layer=None,
        index=positions,
        evidence={"share": share, "share of the squared gradient": part, "positions": len(positions), "tensor": name},
        threshold=limit.PADDING_SHARE,
        cause=f"{100 * share:.0f} % of the positions of {name} repeat one entry at the ends of sequences, and the loss "
        "counts them: padding is learnt like data",
        fix="leave padding out of the loss: ignore_index in cross_entropy, labels of -100, or a mask before the mean",
        share=max(share, part),
    )


def _runs(tensor: Tensor) -> Tensor:
    """Return where a sequence starts or ends with repeats of one entry that also ends other sequences."""
    rows = tensor.detach() if tensor.dim() == 3 else tensor.detach().unsqueeze(-1)
    result = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
    for ends in (rows, rows.flip(1)):
        same = (ends == ends[:, :1]).all(-1).long().cumprod(1).bool()
        same &= (same.sum(1) >= 2).unsqueeze(1)
        result |= same if ends is rows else same.flip(1)
    entries = rows[result]
    if not len(entries):
        return result
    _, which, counts = torch.unique(entries, dim=0, return_inverse=True, return_counts=True)
    commonest = entries[(which == counts.argmax()).nonzero()[0, 0]]
    return result & (rows == commonest).all(-1)


def _by_position(seen: Evidence, samples: int, positions: int) -> Tensor | None:
    """Return the squared gradient at each position of the last layer that keeps the positions separate."""
    for layer in reversed(seen.layers):
        gradient = layer.calls[-1].gradient
        if gradient is not None and gradient.numel() // gradient.shape[-1] == samples * positions:
            return gradient.detach().float().square().sum(-1).reshape(samples, positions)
    return None


def _of_gradients(seen: Evidence) -> Iterator[Finding]:
    """Yield a finding for a sample whose gradient at the last layer is far larger than the others'."""
    last = next((layer for layer in reversed(seen.layers) if layer.calls[-1].gradient is not None), None)
    gradient = None if last is None else last.calls[-1].gradient
    count = next((len(t) for t in seen.inputs.values() if t.dim()), 0)
    if last is None or gradient is None or gradient.dim() == 0 or len(gradient) != count or count < 8:
        return
    energy = gradient.detach().float().reshape(count, -1).square().sum(1)
    top, share = int(energy.argmax()), float(energy.max() / energy.sum().clamp_min(1e-38))
    median = float(energy.median())
    alone = float(energy.max()) ** 0.5 * count  # its gradient if it were the only sample of the mean
    many_times = float(energy.max()) > limit.GRADIENT_RATIO * median
    if share > limit.GRADIENT_SHARE and many_times and alone > limit.GRADIENT_ALONE:
        yield Finding(
            kind="outlying-sample",
            layer=last.name,
            index=top,
            evidence={"share of the squared gradient": share, "ratio": float(energy.max()) / max(median, 1e-38)},
            threshold=limit.GRADIENT_SHARE,
            cause=f"sample {top} holds {100 * share:.1f} % of the squared gradient at {last.name}: its target is far "
            "from the model's predictions",
            fix="check this sample's target for a wrong unit or a missing value written as a number; or use a loss "
            "that grows linearly (huber_loss), or clip gradients by sample",
            share=share,
        )
