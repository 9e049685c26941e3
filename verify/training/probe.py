"""Probe a network during training: self factors, and the effect of each sample's gradient on its own activation.

    factors   K_ss of every probed sample: |x~_s|^2, where x~_s is the vector that the parameters multiply (``rows``)
    own step  a real step of a copy of the layer's parameters along the gradient of one sample's share of the loss; the
              identity (theory, section 1) says ``Delta z_s = -eta kappa g_s``
    share     the share of each sample's own gradient in the change by a step on all probed samples

A layer's input is held fixed, as in theory, section 1, and g_s is the gradient of the network's current loss. No
method's formula is used. All measured layers are linear in their parameters, so the identity holds at every rate. The
rate is chosen so that the step has the same norm as the parameters, where rounding matters least: at a small rate the
change of z would be a difference of nearly equal numbers, and only rounding would be measured.
"""

from __future__ import annotations

import copy
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verify.training.dataset import Split
from verify.training.layers import Network, loss_of
from verify.training.rows import as_samples, entries, rows_of, weight_and_bias, with_parameters

_TF32 = 2.0**-10
STEPPED_SAMPLES = 4  # probed samples that take a step of their own


@dataclass(frozen=True)
class Spread:
    """The distribution of one layer's self factor over the probed samples at one training step."""

    step: int
    layer: str
    minimum: float
    median: float
    maximum: float
    mean: float
    coefficient_of_variation: float

    @property
    def ratio(self) -> float:
        """Largest over smallest self factor: 1 if every sample moves by the same factor."""
        return self.maximum / self.minimum


@dataclass(frozen=True)
class OwnStep:
    """The effect of a sample's gradient on its own activation, in one layer at one training step.

    ``kappa`` is the layer's stated factor; for layers without one it is the mean of the probed self factors, and the
    error is then the largest departure from that mean. ``error`` is ``max_s |Delta z_s + eta kappa g_s| / |eta kappa
    g_s|`` over a few samples, in the trial's dtype; ``error_float64`` is the same for a copy in float64; ``bound`` is
    the largest error that rounding in the trial's dtype can cause. ``self_share`` is ``sum_s |own_s|^2 / (sum_s
    |own_s|^2 + sum_s |cross_s|^2)`` for a step on the loss of all probed samples; the rest comes from cross terms.
    Values are None if no chosen sample has a gradient.
    """

    step: int
    layer: str
    kappa: float
    declared: bool
    error: float | None
    error_float64: float | None
    bound: float
    self_share: float | None

    def measured(self) -> list[float]:
        """Return the measured numbers, without those that are None."""
        return [v for v in (self.kappa, self.error, self.error_float64, self.self_share) if v is not None]


@dataclass(frozen=True)
class _Seen:
    """A layer of a copied network, its input x (B, n), and the loss gradient g (B, m, places) at its output."""

    layer: nn.Module
    x: Tensor
    g: Tensor


class _Twin:
    """A copy of a network in a given dtype, which loads the network's parameters and buffers before each probe."""

    def __init__(self, model: Network, dtype: torch.dtype) -> None:
        self.network, self.dtype = copy.deepcopy(model).to(dtype).train(), dtype
        self.own = [*self.network.parameters(), *self.network.buffers()]
        self.given = [*model.parameters(), *model.buffers()]

    def look(self, probed: Split) -> dict[str, _Seen]:
        """Return each measured layer's input and output gradient, for the current network."""
        with torch.no_grad():
            torch._foreach_copy_(self.own, self.given)
        x = probed.x.to(self.dtype) if probed.x.is_floating_point() else probed.x
        return _look(self.network, x, probed.y)


class Probe:
    """Measures a network on copies, so that the network, its buffers and its gradients are unchanged.

    Args:
        model: the network; its parameters and buffers must change only in place from now on.
    """

    def __init__(self, model: Network) -> None:
        own = next(model.parameters()).dtype
        self._exact = _Twin(model, torch.float64)
        self._same = self._exact if own is torch.float64 else _Twin(model, own)

    def measure(self, probed: Split, step: int, generator: torch.Generator) -> tuple[list[Spread], list[OwnStep]]:
        """Return the measurements of each layer; ``generator`` draws the samples that take a step of their own."""
        exact = self._exact.look(probed)
        same = exact if self._same is self._exact else self._same.look(probed)
        spreads, own_steps = [], []
        for name, seen in exact.items():
            factors = self_factors(seen.layer, seen.x)
            spreads.append(summarise(step, name, factors))
            chosen = torch.randperm(factors.numel(), generator=generator)[:STEPPED_SAMPLES].to(seen.x.device)
            own_steps.append(_own_step(spreads[-1], seen, same[name], factors, chosen))
        return spreads, own_steps


def self_factors(layer: nn.Module, x: Tensor) -> Tensor:
    """Return K_ss of each sample, of shape (B, places), for ``x`` of shape (B, n) with one place."""
    rows = rows_of(layer, x)
    return rows.reshape(*rows.shape[:2], -1).square().sum(1)


def summarise(step: int, layer: str, factors: Tensor) -> Spread:
    """Return the spread of the self factors, of any shape."""
    inner = sorted(factors.flatten().tolist())
    deviation, mean = torch.std_mean(factors, correction=0)
    return Spread(step, layer, inner[0], statistics.median(inner), inner[-1], float(mean), float(deviation / mean))


def rounding_bound(products: int, epsilon: float) -> float:
    """Return the rounding bound on the error of the identity, for units that sum ``products`` products.

    In units of roundoff: 3 (n + 1) for the sums in z before and after a step as long as the parameters, half of that
    for the length that divides z, and n + 1 for the gradient; 6 (n + 8) covers them all.
    """
    return 6 * (products + 8) * epsilon / 2


@dataclass(frozen=True)
class Moved:
    """The effect of steps of a layer's parameters on its activations.

    ``error`` is that of ``OwnStep``, ``change`` (B, m, places) the effect of a step on all samples, per unit of rate;
    None if no sample has a gradient.
    """

    error: float | None
    change: Tensor | None


def move(layer: nn.Module, x: Tensor, g: Tensor, kappa: float, chosen: Tensor) -> Moved:
    """Take steps of copies of a layer's parameters, one on each chosen sample alone and one on all, and compare.

    The copies form the units of one wide layer, because units are independent.

    Args:
        layer: the layer; its parameters are unchanged.
        x: its input (B, n).
        g: the gradient (B, m, places) of the loss with respect to its output.
        kappa: the expected factor.
        chosen: the samples that step alone, as indices below B * places; those without a gradient are left out.
    """
    (units, places), copies = g.shape[1:], len(chosen) + 1
    own = [one.detach() for one in weight_and_bias(layer)]
    theta = [one.repeat(copies, *[1] * (one.dim() - 1)).requires_grad_() for one in own]
    z = with_parameters(layer, x, *theta)
    at = chosen // places, torch.arange(copies - 1, device=g.device), slice(None), chosen % places
    lone = g[at[0], :, at[3]]
    seed = g.new_zeros(len(g), copies, units, places)
    seed[at] = lone
    seed[:, -1] = g
    gradients = [one.view(copies, -1) for one in torch.autograd.grad(z, theta, seed.view(z.shape))]
    with torch.no_grad():
        lengths = torch.hypot(*(_length(one, 1) for one in gradients))
        eta = torch.hypot(*map(_length, own)) / lengths
        stepped = [
            torch.addcmul(one.view(copies, -1), eta, gradient, value=-1).view(one.shape)
            for one, gradient in zip(theta, gradients, strict=True)
        ]
        change = (with_parameters(layer, x, *stepped) - z).view(seed.shape)
        ideal = lone.mul_(kappa).mul_(eta[:-1])
        errors = _length(change[at] + ideal, 1) / _length(ideal, 1)
        *lone_lengths, whole_length = lengths.flatten().tolist()
        found = [error for error, length in zip(errors.flatten().tolist(), lone_lengths, strict=True) if length > 0]
        return Moved(max(found, default=None), change[:, -1] / -eta[-1] if whole_length > 0 else None)


def _length(one: Tensor, dim: int | None = None) -> Tensor:
    """Return the norm of a tensor, or along one axis, which is kept with length one."""
    return torch.linalg.vector_norm(one, dim=dim, keepdim=dim is not None)


def self_share(own: Tensor, whole: Tensor | None) -> float | None:
    """Return the share of ``own`` in the change ``whole`` that contains it, by sums of squares."""
    if whole is None:
        return None
    mine, others = float(_length(own)), float(torch.dist(own, whole))
    both = mine * mine + others * others
    return mine * mine / both if both > 0 else None


def _own_step(spread: Spread, exact: _Seen, same: _Seen, factors: Tensor, chosen: Tensor) -> OwnStep:
    declared = getattr(exact.layer, "kappa", None)
    kappa = spread.mean if declared is None else float(declared)
    moved = move(exact.layer, exact.x, exact.g, kappa, chosen)
    error = moved.error if same is exact else move(same.layer, same.x, same.g, kappa, chosen).error
    both = error is not None and moved.error is not None
    return OwnStep(
        step=spread.step,
        layer=spread.layer,
        kappa=kappa,
        declared=declared is not None,
        error=error if both else None,
        error_float64=moved.error if both else None,
        bound=rounding_bound(entries(exact.layer), _epsilon(same)),
        self_share=self_share(factors.unsqueeze(1) * exact.g, moved.change),
    )


def _epsilon(seen: _Seen) -> float:
    """Return the machine epsilon of a layer's arithmetic; convolutions may use TF32."""
    x = seen.x
    rough = x.is_cuda and x.dtype is torch.float32 and x.dim() > 2 and torch.backends.cudnn.allow_tf32
    return _TF32 if rough else torch.finfo(x.dtype).eps


def _look(twin: Network, x: Tensor, y: Tensor) -> dict[str, _Seen]:
    """Return each measured layer's input and output gradient, for the loss on samples ``x`` with classes ``y``."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def note(name: str, x: Tensor, z: Tensor) -> None:
        inputs[name], outputs[name] = as_samples(layers[name], x.detach()), z

    layers = twin.measured_layers()
    handles = [
        layer.register_forward_hook(lambda _, arguments, z, name=name: note(name, arguments[0], z))
        for name, layer in layers.items()
    ]
    loss = loss_of(twin(x), y)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(loss, list(outputs.values()))
    found = {}
    for name, gradient in zip(outputs, gradients, strict=True):
        g = as_samples(layers[name], gradient)
        found[name] = _Seen(layers[name], inputs[name], g.reshape(*g.shape[:2], -1))
    return found
