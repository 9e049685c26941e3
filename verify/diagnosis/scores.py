"""Judge the scores of torch's attention as a layer: queries times keys; its samples are pairs of tokens.

    S = u . k / sqrt(d)     query u = WQ x + bQ of token x, key k = WK y + bK of token y, for each head

The kernel is that of the derivation ``attention``. S is bilinear in its parameters, so the kernel holds to first order
in the rate. The gradient with respect to the scores stays inside torch's function: it is computed from the gradient at
the output, and compared with the gradients at queries and keys. All of it runs on some tokens of some samples, in
float64.

Not judged: attention with extra keys (``add_bias_kv``, ``add_zero_attn``), without biases, called several times, or
only partly trained; and shares of attention with active dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verify.diagnosis.capture import Attended, Call, Captured, Keep
from verify.diagnosis.kernel import Law, kernel_of_inputs
from verify.diagnosis.layers import Unjudged
from verify.diagnosis.parts import UNMOVED, Moved, cosine
from verify.diagnosis.record import LayerDiagnosis, Parts, Shares, spread
from verify.diagnosis.samples import evenly
from verify.diagnosis.sums import inner, squared

LAW = "attention"
_SAMPLES, _TOKENS = 2, 12  # entries of the batch, and queries and keys in each of them
NOTE = "pairs of tokens, to first order in the rate: scores are bilinear in their parameters"
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class _Part:
    """The part of a projection's call that computes queries, keys or values."""

    call: Call
    start: int
    stop: int

    def weights(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return weight and bias in float64 from parameters, or their gradients, by name."""
        weight, bias = (self.call.site.pieces[word].of(values)[self.start : self.stop] for word in ("weight", "bias"))
        return weight.double(), bias.double()

    def gradient(self) -> Tensor:
        """Return the gradient at its output, (tokens, samples, units)."""
        assert self.call.gradient is not None
        return _with_samples(self.call.gradient)[..., self.start : self.stop].double()


@dataclass(frozen=True)
class Scores:
    """The chosen pairs of one attention.

    Attributes:
        name: the attention's name.
        heads: the number of heads.
        parts: the projections of queries (``u``), keys (``k``) and values (``v``).
        samples: the chosen entries of the batch.
        asking, answering: the chosen query tokens and key tokens.
        inputs: the inputs of these tokens: ``x`` of queries, ``y`` of keys, (samples, tokens, features).
        g: the gradient at the chosen scores (samples, heads, asking, answering), or the reason why it is unknown.
    """

    name: str
    heads: int
    parts: Mapping[str, _Part]
    samples: Tensor
    asking: Tensor
    answering: Tensor
    inputs: Mapping[str, Tensor]
    g: Tensor | str

    def taken(self, x: Tensor, answering: bool) -> Tensor:
        """Return the chosen tokens of a projection's input."""
        tokens = self.answering if answering else self.asking
        return _with_samples(x)[tokens][:, self.samples].transpose(0, 1).double()

    def made(self, values: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the scores with these parameters and inputs."""
        return self.product(self.projected("u", values, inputs["x"]), self.projected("k", values, inputs["y"]))

    def projected(self, word: str, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return queries or keys (samples, heads, tokens, width)."""
        weight, bias = self.parts[word].weights(values)
        return (x @ weight.mT + bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def product(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return scores (samples, heads, asking, answering)."""
        return queries @ keys.mT * queries.shape[-1] ** -0.5

    def moved(self, values: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> Tensor:
        """Return the change of the scores by a step, to first order, at a rate of 1."""
        u, k = self.projected("u", values, self.inputs["x"]), self.projected("k", values, self.inputs["y"])
        du, dk = self.projected("u", step, self.inputs["x"]), self.projected("k", step, self.inputs["y"])
        return self.product(du, k) + self.product(u, dk)

    def kernel(self, values: Mapping[str, Tensor], sample: int) -> Tensor:
        """Return K between all chosen pairs of one sample, (heads, pairs, pairs)."""
        u, k = self.projected("u", values, self.inputs["x"]), self.projected("k", values, self.inputs["y"])
        t, l = len(self.asking), len(self.answering)
        x, y = self.inputs["x"][sample].unsqueeze(0), self.inputs["y"][sample].unsqueeze(0)
        rows = {
            "u": u[sample].repeat_interleave(l, 1),
            "k": k[sample].repeat(1, t, 1),
            "x": x.repeat_interleave(l, 1).expand(self.heads, -1, -1),
            "y": y.repeat(1, t, 1).expand(self.heads, -1, -1),
        }
        return kernel_of_inputs(Law(LAW), rows, rows, {"d": float(u.shape[-1])})


def _with_samples(tensor: Tensor) -> Tensor:
    """Return a tensor (tokens, samples, entries), with a samples axis added to (tokens, entries)."""
    return tensor if tensor.dim() == 3 else tensor.unsqueeze(1)


def scores_of(captured: Captured, values: Mapping[str, Tensor]) -> dict[str, Scores | str]:
    """Return the chosen pairs of every called attention, or the reason why there are none."""
    found: dict[str, Scores | str] = {}
    for name, calls in captured.attended.items():
        try:
            found[name] = _scores(name, calls, captured, values)
        except (RuntimeError, TypeError, ValueError, IndexError) as problem:  # raised for inputs in another layout
            found[name] = f"its inputs cannot be read as tokens: {str(problem).splitlines()[0]}"
    return found


def _scores(name: str, attended: list[Attended], captured: Captured, values: Mapping[str, Tensor]) -> Scores | str:
    module = attended[0].module
    if len(attended) > 1:
        return f"it is called {len(attended)} times, and its scores are judged for one call only"
    if module.bias_k is not None or module.add_zero_attn:
        return "it has keys that belong to no token (add_bias_kv, add_zero_attn)"
    parts = _parts_of(name, captured, module.embed_dim)
    if isinstance(parts, str):
        return parts
    asks, answers = _with_samples(parts["u"].call.x), _with_samples(parts["k"].call.x)
    samples = evenly(asks.shape[1], _SAMPLES, asks.device)
    asking, answering = evenly(len(asks), _TOKENS, asks.device), evenly(len(answers), _TOKENS, asks.device)
    found = Scores(name, module.num_heads, parts, samples, asking, answering, {}, "")
    inputs = {"x": found.taken(parts["u"].call.x, False), "y": found.taken(parts["k"].call.x, True)}
    found = replace(found, inputs=inputs)
    return replace(found, g=_gradient(found, attended[0], captured, values))


def _parts_of(name: str, captured: Captured, width: int) -> dict[str, _Part] | str:
    """Return the parts of calls that compute queries, keys and values."""
    found = {}
    for word, letter in (("u", "q"), ("k", "k"), ("v", "v")):
        for part in ("qkv", "kv", letter):
            calls = captured.calls.get(f"{name}.{part}" if name else part, [])
            if letter in part and len(calls) == 1:
                start = part.index(letter) * width
                found[word] = _Part(calls[0], start, start + width)
    if len(found) < 3:
        return "not every projection was recorded exactly once"
    for word in ("u", "k"):
        if set(found[word].call.site.trained) != {"weight", "bias"}:
            return "the derived law of scores needs trained weights and biases, which its queries or keys lack"
        if found[word].call.gradient is None:
            return "its output does not reach the loss, or it ran without gradients"
    return found


def _gradient(found: Scores, attended: Attended, captured: Captured, values: Mapping[str, Tensor]) -> Tensor | str:
    """Return the gradient at the chosen scores, computed from that at the output, or the reason why it is unknown."""
    module, name = attended.module, found.name
    if module.training and module.dropout > 0:
        return "its dropout mask is drawn inside torch's function, so the scores that count are unknown"
    calls = captured.calls.get(f"{name}.out_proj" if name else "out_proj", [])
    if len(calls) != 1 or calls[0].gradient is None:
        return "the gradient at its output was not recorded"
    asks, answers = (_with_samples(found.parts[word].call.x)[:, found.samples] for word in ("u", "k"))
    shape = (*_with_samples(found.parts["u"].call.x).shape[:2], -1)
    met = calls[0].gradient.reshape(shape)[:, found.samples].double()
    context = met @ calls[0].site.pieces["weight"].of(values).double()
    queries = found.projected("u", values, asks.transpose(0, 1).double())
    keys = found.projected("k", values, answers.transpose(0, 1).double())
    weight, bias = (p.of(values).double() for p in (found.parts["v"].call.site.pieces[w] for w in ("weight", "bias")))
    span = slice(found.parts["v"].start, found.parts["v"].stop)
    read = _with_samples(found.parts["v"].call.x)[:, found.samples].transpose(0, 1).double()
    value = (read @ weight[span].mT + bias[span]).unflatten(-1, (found.heads, -1)).transpose(1, 2)
    scores = found.product(queries, keys) + _mask(found, attended, scores_like=queries)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    slope = context.transpose(0, 1).unflatten(-1, (found.heads, -1)).transpose(1, 2) @ value.mT
    g = weights * (slope - (weights * slope).sum(-1, keepdim=True))
    scale = queries.shape[-1] ** -0.5
    for word, made in (("u", g @ keys * scale), ("k", g.mT @ queries * scale)):
        real = found.parts[word].gradient()[:, found.samples].transpose(0, 1)
        told = made.transpose(1, 2).flatten(2)
        if squared(told - real) > 1e-4 * squared(real):
            return "the gradient computed at its scores does not match the gradients at queries and keys"
    return g[:, :, found.asking][..., found.answering]


def _mask(found: Scores, attended: Attended, scores_like: Tensor) -> Tensor:
    """Return the term that masks add to the scores of the chosen samples."""
    total = scores_like.new_zeros(())
    padding, mask = attended.given.get("key_padding_mask"), attended.given.get("attn_mask")
    if padding is not None:
        padding = padding if padding.dim() == 2 else padding.unsqueeze(0)
        total = total + _added(padding[found.samples])[:, None, None]
    if mask is not None and mask.dim() == 3:
        total = total + _added(mask.unflatten(0, (-1, found.heads))[found.samples])
    elif mask is not None:
        total = total + _added(mask)
    return total


def _added(mask: Tensor) -> Tensor:
    zero = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
    return zero.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask.double()


def judge_scores(
    chosen: Mapping[str, Scores | str], values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> dict[str, LayerDiagnosis | str]:
    """Return the record of each attention's scores, by the attention's name, or the reason why there is none."""
    return {n: s if isinstance(s, str) else _judged(s, values, gradients) for n, s in chosen.items()}


def _judged(found: Scores, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> LayerDiagnosis:
    kernels = [found.kernel(values, k) for k in range(len(found.samples))]
    factors = torch.stack([k.diagonal(dim1=1, dim2=2) for k in kernels]).unflatten(-1, (len(found.asking), -1))
    missing, shares = found.g if isinstance(found.g, str) else "", None
    if isinstance(found.g, Tensor) and bool(found.g.any()):
        own, real = factors * found.g, found.moved(values, gradients)
        parts = squared(own), squared(real - own)
        total = sum(parts) or 1.0
        told = (kernels[0] @ found.g[0].flatten(1).unsqueeze(-1)).reshape(found.g[0].shape)
        alone = _by_differentiation(found, values)
        error = (squared(told - alone) / max(squared(alone), squared(own[0]), 1e-300)) ** 0.5
        coarse = torch.finfo(found.parts["u"].call.dtype).eps ** 0.5
        shares = Shares(parts[0] / total, parts[1] / total, 0.0, error, coarse)
    elif not missing:
        missing = "the gradient of the loss with respect to its scores is zero"
    return LayerDiagnosis(
        name=f"{found.name}.scores" if found.name else "scores",
        type="MultiheadAttention.scores",
        sample="pair",
        calls=1,
        law=LAW,
        history=(spread(factors),),
        shares=shares,
        missing=missing,
        note=NOTE,
    )


def unjudged_scores(records: Mapping[str, LayerDiagnosis | str]) -> tuple[Unjudged, ...]:
    """Return the scores without a record, with the reasons."""
    reasons = [(f"{name}.scores" if name else "scores", reason) for name, reason in records.items()]
    return tuple(Unjudged(name, "MultiheadAttention.scores", r) for name, r in reasons if isinstance(r, str))


def _by_differentiation(found: Scores, values: Mapping[str, Tensor]) -> Tensor:
    """Return the change of the first sample's chosen scores by their own gradient, by automatic differentiation."""
    assert isinstance(found.g, Tensor)
    names = sorted({p.parameter for word in ("u", "k") for p in found.parts[word].call.site.pieces.values()})
    held = {name: values[name].detach().double().requires_grad_() for name in names}
    first = replace(found, samples=found.samples[:1], inputs={word: x[:1] for word, x in found.inputs.items()})
    with torch.enable_grad():
        z = first.made(held, first.inputs)
    step = dict(zip(names, torch.autograd.grad(z, list(held.values()), found.g[:1]), strict=True))
    with torch.no_grad():
        return first.moved({name: p.detach() for name, p in held.items()}, step)[0]


class Later:
    """A ``Keep`` for the pass after the step: it keeps the chosen tokens' inputs, and leaves others to ``kept``."""

    def __init__(self, chosen: Mapping[str, Scores | str], kept: Keep) -> None:
        self.inputs: dict[str, dict[str, Tensor]] = {}
        self._kept, self._wanted = kept, {}
        for name, scores in chosen.items():
            if isinstance(scores, Scores):
                for letter, word in (("x", "u"), ("y", "k")):
                    self._wanted.setdefault(scores.parts[word].call.site.name, []).append((name, scores, letter))

    _wanted: dict[str, list[tuple[str, Scores, str]]]

    def __call__(self, site: str, number: int, x: Tensor) -> Tensor:
        """Return the entries of one input to keep."""
        for name, scores, letter in self._wanted.get(site, ()) if number == 0 else ():
            if x.shape == scores.parts["u" if letter == "x" else "k"].call.shape:
                self.inputs.setdefault(name, {})[letter] = scores.taken(x, letter == "y")
        return self._kept(site, number, x)


def scores_with_parts(
    records: Mapping[str, LayerDiagnosis | str], chosen: Mapping[str, Scores | str], later: Later, step: Moved
) -> dict[str, LayerDiagnosis | str]:
    """Return the records with the contributions to the real step's change of the scores."""
    result = dict(records)
    for name, record in records.items():
        scores, inputs = chosen[name], later.inputs.get(name, {})
        if isinstance(record, LayerDiagnosis) and isinstance(scores, Scores) and len(inputs) == 2:
            parts = _parts(scores, inputs, step)
            result[name] = replace(record, parts=parts if isinstance(parts, Parts) else None)
    return result


def _parts(found: Scores, inputs: Mapping[str, Tensor], step: Moved) -> Parts | str:
    z, after = found.made(step.before, found.inputs), found.made(step.after, found.inputs)
    own, upstream = after - z, found.made(step.before, inputs) - z
    change = found.made(step.after, inputs) - z
    total, size = squared(change), squared(z)
    if total == 0:
        return UNMOVED
    sizes = step.sizes({p for word in ("u", "k") for p in found.parts[word].call.site.pieces.values()})
    g: Any = found.g if isinstance(found.g, Tensor) else None
    return Parts(
        own=inner(own, change) / total,
        upstream=inner(upstream, change) / total,
        both=inner(change - own - upstream, change) / total,
        split=None,
        cosine=None if g is None else cosine(change.movedim(1, -1), g.movedim(1, -1)),
        update_to_weight=(sizes.update / sizes.weight) ** 0.5 if sizes.weight > 0 else None,
        update_to_activation=(total / size) ** 0.5 if size > 0 else None,
        gradient_norm=sizes.gradient**0.5,
        squared_change=0.0,
    )
