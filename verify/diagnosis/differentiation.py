"""Judge layers without a known law (recurrent nets, experts, any module) by automatic differentiation on few samples.

A sample is one entry of the batch with all its outputs, so for a recurrent layer with all time steps. The self factor
is the mean diagonal entry of K_ss; if a sample has many units, it is estimated from random directions. The module runs
alone in float64, with the arguments of its first call; directional derivatives are central differences.

If a module has children with parameters, only its own parameters are judged; its children count as upstream. Not
supported: modules that draw random numbers, change their state, lack float64, or hold large tensors besides parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from verify.diagnosis.layers import gathered
from verify.diagnosis.reads import first_tensor
from verify.diagnosis.record import LayerDiagnosis, Parts, Shares, spread

LAW = "automatic differentiation"
_SAMPLES, _DIRECTIONS, _FEW_UNITS, _LENGTH, _BOUND = 3, 4, 8, 1e-4, 1e-3
Values = dict[str, Tensor]


@dataclass
class WholeCall:
    """The first call of a module: its arguments, its output, the gradient there, and how many calls there were."""

    name: str
    module: nn.Module
    arguments: Any
    words: Any
    z: Tensor
    gradient: Tensor | None = None
    calls: int = 1


class Refused(Exception):
    """The reason why a module cannot be judged by automatic differentiation."""


class _Alone:
    """A module as a function of its parameters, in float64, at the arguments of a recorded call."""

    def __init__(self, call: WholeCall, again: WholeCall | None = None) -> None:
        given = again or call
        self.call = call
        self._arguments, self._words = tree_map(plain_numbers, (given.arguments, given.words))
        self._buffers = {name: plain_numbers(b) for name, b in call.module.named_buffers()}
        self.axis = _sample_axis(call)

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the output, samples first."""
        held = {**{name: b.clone() for name, b in self._buffers.items()}, **values}
        z = first_tensor(functional_call(self.call.module, held, self._arguments, self._words))
        return self.laid(z)

    def laid(self, z: Tensor) -> Tensor:
        """Return an output as (samples, units)."""
        if self.axis is None:
            return z.reshape(1, -1)
        return z.movedim(self.axis, 0).flatten(1) if z.dim() > 1 else z.unsqueeze(1)

    def along(self, values: Values, direction: Mapping[str, Tensor], reach: float = _LENGTH) -> Tensor:
        """Return the derivative of the output along a direction; ``reach`` is the step in parameter norms."""
        size = _length(values[n] for n in direction) or 1.0
        length = _length(direction.values())
        if length == 0:
            return torch.zeros_like(self(values))
        step = reach * size / length
        ends = [self({**values, **{n: values[n] + sign * step * d for n, d in direction.items()}}) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)


def _length(values: Iterable[Tensor]) -> float:
    return float(sum(float(v.square().sum()) for v in values)) ** 0.5


def plain_numbers(value: Any) -> Any:
    """Return a detached tensor, in float64 if it is real; any other value unchanged."""
    if not isinstance(value, Tensor):
        return value
    plain = gathered(value.detach())
    return plain.double() if plain.is_floating_point() else plain


def _sample_axis(call: WholeCall) -> int | None:
    """Return the sample axis of the output; None if all of it belongs to one sample."""
    if isinstance(call.module, nn.RNNBase):
        if call.z.dim() == 2:
            return None
        return 0 if call.module.batch_first else 1
    return 0 if call.z.dim() > 1 else None


def own_names(module: nn.Module) -> list[str]:
    """Return the names of a module's own trained parameters, without those of its children.

    The originals of parameters computed by ``torch.nn.utils.parametrize`` count as the module's own.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    return [name for name, _ in named if "." not in name or name.startswith("parametrizations.")]


def values_of(call: WholeCall, held: Mapping[str, Tensor], names: Mapping[str, str]) -> Values:
    """Return a module's parameters in float64; ``names`` maps the module's parameter names to the model's.

    Integer parameters, such as packed weights, are left unchanged.
    """
    found = {name: gathered(held[names[name]]).detach() for name in names}
    return {name: p.to(torch.float64, copy=True) if p.is_floating_point() else p.clone() for name, p in found.items()}


def judged(
    call: WholeCall, names: Mapping[str, str], held: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> LayerDiagnosis:
    """Return the record of a module; raise Refused if it cannot be judged.

    Args:
        call: its first call, with the gradient at its output.
        names: for each of the module's parameter names the model's name.
        held: the model's parameters by name.
        gradients: the gradients of the model's parameters by name.
    """
    if call.gradient is None:
        raise Refused("its output does not reach the loss, or it ran without gradients")
    alone, values = _Alone(call), values_of(call, held, names)
    with torch.no_grad():
        _check(alone, values, call)
    trained = own_names(call.module)
    leaves = {name: v.requires_grad_(name in trained) for name, v in values.items()}
    with torch.enable_grad():
        z = alone(leaves)
    g = alone.laid(call.gradient.double())
    chosen = torch.linspace(0, len(z) - 1, min(len(z), _SAMPLES)).round().long().unique().tolist()
    factors = torch.tensor([_factor(z, s, leaves, trained) for s in chosen], dtype=torch.float64)
    own_steps = [_pull(z, leaves, trained, _only(g, s)) for s in chosen]
    together = _pull(z, leaves, trained, g)
    plain = {name: v.detach() for name, v in leaves.items()}
    with torch.no_grad():
        shares = _shares(alone, plain, chosen, own_steps, together, _whole(names, trained, gradients))
    more = f"; of its {call.calls} calls the first is judged, the others count as elsewhere" if call.calls > 1 else ""
    return LayerDiagnosis(
        name=call.name,
        type=type(call.module).__name__,
        sample="sample",
        calls=call.calls,
        law=LAW,
        history=(spread(factors),),
        shares=shares,
        note=f"judged by automatic differentiation on {len(chosen)} of {len(z)} samples{more}",
    )


def _check(alone: _Alone, values: Values, call: WholeCall) -> None:
    try:
        made = alone(values)
    except (RuntimeError, TypeError, ValueError) as problem:
        raise Refused(f"it cannot be run alone in float64: {str(problem).splitlines()[0]}") from problem
    real = alone.laid(call.z.double())
    coarse = torch.finfo(call.z.dtype).eps ** 0.5
    if made.shape != real.shape or float((made - real).norm()) > coarse * float(real.norm()) + 1e-12:
        raise Refused("a second run gives other numbers: it draws random numbers or changes its state")


def _pull(z: Tensor, leaves: Values, trained: list[str], g: Tensor) -> Values:
    """Return J^T g."""
    found = torch.autograd.grad(z, [leaves[n] for n in trained], g, retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(leaves[n]) if part is None else part for n, part in zip(trained, found, strict=True)}


def _only(g: Tensor, sample: int) -> Tensor:
    kept = torch.zeros_like(g)
    kept[sample] = g[sample]
    return kept


def _factor(z: Tensor, sample: int, leaves: Values, trained: list[str]) -> float:
    """Return the mean diagonal entry of K_ss, over all units or estimated from random sign vectors."""
    units, total = z.shape[1], 0.0
    if units <= _FEW_UNITS:
        directions = torch.eye(units, dtype=z.dtype, device=z.device)
    else:
        generator = torch.Generator().manual_seed(sample)
        directions = torch.randint(0, 2, (_DIRECTIONS, units), generator=generator).to(z) * 2 - 1
    for direction in directions:
        g = torch.zeros_like(z)
        g[sample] = direction
        total += sum(float(p.square().sum()) for p in _pull(z, leaves, trained, g).values())
    return total / (units if units <= _FEW_UNITS else units * _DIRECTIONS)


def _whole(names: Mapping[str, str], trained: list[str], gradients: Mapping[str, Tensor]) -> Values:
    found = {name: gathered(gradients[names[name]]) for name in trained if names[name] in gradients}
    return {name: (g.to_dense() if g.is_sparse else g).double() for name, g in found.items()}


def _shares(
    alone: _Alone, values: Values, chosen: list[int], own_steps: list[Values], together: Values, whole: Values
) -> Shares | None:
    own = torch.stack([alone.along(values, step)[s] for s, step in zip(chosen, own_steps, strict=True)])
    calls, real = alone.along(values, together)[chosen], alone.along(values, whole)[chosen]
    parts = [float(part.square().sum()) for part in (own, calls - own, real - calls)]
    total = sum(parts)
    if total == 0:
        return None
    further = alone.along(values, whole, 4 * _LENGTH)[chosen]  # shows whether the difference quotient has converged
    error = float((further - real).norm()) / max(float(real.norm()), float(own.norm()), 1e-300)
    return Shares(parts[0] / total, parts[1] / total, parts[2] / total, error, _BOUND)


def whole_parts(
    call: WholeCall, later: WholeCall | None, before: Values, after: Values, gradient_norm: float
) -> Parts | str:
    """Return the contributions to a real step's change of a module's output, or the reason why there are none."""
    if later is None or call.gradient is None or later.z.shape != call.z.shape:
        return "its calls after the step differ from those before, so samples cannot be compared"
    here, there = _Alone(call), _Alone(call, later)
    with torch.no_grad():
        z = here(before)
        moved = {name: after[name] for name in own_names(call.module)}
        held = {name: before[name] for name in moved}
        own, upstream = here({**before, **moved}) - z, there({**after, **held}) - z
        change = there(after) - z
    total, size = float(change.square().sum()), float(z.square().sum())
    if total == 0:
        return "the step does not change its activation"

    def _share(part: Tensor) -> float:
        return float((part * change).sum()) / total

    weight, update = _length(before[n] for n in moved), _length(v - before[n] for n, v in moved.items())
    g = here.laid(call.gradient.double())
    lengths = change.norm(dim=1) * g.norm(dim=1)
    used = lengths > 0
    return Parts(
        own=_share(own),
        upstream=_share(upstream),
        both=_share(change - own - upstream),
        split=None,
        cosine=float((-(change * g).sum(1)[used] / lengths[used]).mean()) if bool(used.any()) else None,
        update_to_weight=update / weight if weight > 0 else None,
        update_to_activation=(total / size) ** 0.5 if size > 0 else None,
        gradient_norm=gradient_norm,
        squared_change=total,
    )
