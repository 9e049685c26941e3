"""Measure the self factors of a model's layers while it trains, at every so many steps.

    with verify.watch(model, every=100) as watched:
        for x, y in batches: ...              any training loop
    watched.readings[-1].layers["0"].ratio

A step is a forward pass of the model in training mode with gradients. Between the steps that are measured a layer costs
one call of an empty function; at them, what its self factors cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from derive.errors import UsageError
from verify.diagnosis.batch import check_model
from verify.diagnosis.capture import bags_apart, first_argument, self_factors
from verify.diagnosis.kernel import Law
from verify.diagnosis.layers import Site, Unjudged, affine_stand_in, plan
from verify.diagnosis.output_projection import OutputProjection
from verify.diagnosis.record import Spread, spread
from verify.diagnosis.samples import Shape
from verify.diagnosis.scalars import Scalars


@dataclass(frozen=True)
class Reading:
    """The self factors of every layer at one step, by the layer's name."""

    step: int
    layers: dict[str, Spread]


class Watch:
    """Hooks on a model that measure self factors; a context manager, whose end takes every hook off again.

    Args:
        model: the module that the training loop calls.
        every: measure the first step and each one so many steps later.
        report: called with each reading.
        tensorboard: a folder for TensorBoard's scalars.

    Attributes:
        readings: what was measured, in order.
        unjudged: layers without a reading, with the reason.

    Raises:
        UsageError: no module, no parameters, ``every`` below 1; TensorBoard asked for and not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 100,
        report: Callable[[Reading], None] | None = None,
        tensorboard: Path | str | None = None,
    ) -> None:
        check_model(model)
        if every < 1:
            raise UsageError(f"every is {every}; measure every 1 step or more")
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.every, self.report = every, report
        self.readings: list[Reading] = []
        self._tensorboard, self._scalars = tensorboard, None if tensorboard is None else Scalars(tensorboard)
        self._refused: dict[str, Unjudged] = {}
        self._factors: dict[str, list[Tensor]] = {}
        self._handles: list[Any] = []
        self._steps, self._measures = 0, False
        self._output = OutputProjection()

    @property
    def unjudged(self) -> tuple[Unjudged, ...]:
        """Layers without a reading, with the reason."""
        return (*plan(self.model).unjudged, *self._refused.values())

    @property
    def drift(self) -> dict[str, float]:
        """The median self factor at the last reading over the first, by layer."""
        if not self.readings:
            return {}
        first, last = self.readings[0].layers, self.readings[-1].layers
        return {name: last[name].median / s.median for name, s in first.items() if name in last and s.median > 0}

    def __enter__(self) -> Self:
        """Put the hooks on."""
        found = plan(self.model)
        self._handles = [self.model.register_forward_pre_hook(self._begin)]
        for module, site in found.sites.items():
            self._hook(module, partial(self._layer, site))
        for module, attention in found.attention.items():
            self._hook(module, partial(self._attention, attention.name, module))
            if isinstance(module, nn.MultiheadAttention):
                self._handles.append(module.register_forward_pre_hook(self._listen))
                self._handles.append(module.register_forward_hook(self._listened, always_call=True, prepend=True))
        self._handles.append(self.model.register_forward_hook(self._end, always_call=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._scalars is not None:
            self._scalars.close()

    def _hook(self, module: nn.Module, take: Callable[[Any, Any], None]) -> None:
        def _measured(_: nn.Module, arguments: Any, words: Any, output: Any) -> None:
            if self._measures:
                take(arguments, words)

        self._handles.append(module.register_forward_hook(_measured, with_kwargs=True, prepend=True))

    def _begin(self, *_: Any) -> None:
        counts = self.model.training and torch.is_grad_enabled()
        self._measures = counts and self._steps % self.every == 0
        self._steps += counts
        self._factors = {}

    def _end(self, _: nn.Module, arguments: Any, output: Any) -> None:
        measured, self._measures = self._measures, False
        if not measured or output is None:  # nothing came back: the pass failed halfway
            return
        layers = {name: spread(torch.cat([f.reshape(-1) for f in parts])) for name, parts in self._factors.items()}
        self._factors = {}
        reading = Reading(self._steps - 1, layers)
        self.readings.append(reading)
        if self._scalars is not None:
            self._scalars.add(reading.step, layers)
        if self.report is not None:
            self.report(reading)

    def _listen(self, module: Any, *_: Any) -> None:
        if self._measures:
            self._output.enter(module)

    def _listened(self, *_: Any) -> None:
        self._output.leave()

    def _layer(self, site: Site, arguments: Any, words: Any) -> None:
        reason = bags_apart(site, arguments, words)
        if reason:
            self._refused.setdefault(site.name, Unjudged(site.name, site.type, reason))
        self._take(site, first_argument(arguments, words))

    def _take(self, site: Site, x: Any) -> None:
        if site.name in self._refused:
            return
        try:
            factors = self_factors(site, x)
        except (AttributeError, TypeError, ValueError) as problem:
            reason = str(problem).removeprefix("self_factor: ")
            self._refused[site.name] = Unjudged(site.name, site.type, reason)
            return
        self._factors.setdefault(site.name, []).append(factors)

    def _attention(self, name: str, module: Any, arguments: Any, words: Any) -> None:
        """Take the tokens that the projections read; where one tensor is read by several, they share a reading."""
        given = {**dict(zip(("query", "key", "value"), arguments, strict=False)), **words}
        kind, prefix = type(module).__name__, f"{name}." if name else ""
        generated = not isinstance(module, nn.MultiheadAttention)
        parts: dict[int, tuple[str, Tensor]] = {}
        for word in ("query", "key", "value"):
            letters = parts.get(id(given[word]), ("", given[word]))[0]
            parts[id(given[word])] = (letters + word[0], given[word])
        bias = module.in_proj_bias is not None and module.in_proj_bias.requires_grad
        for part, x in parts.values():
            view = module if generated else affine_stand_in(x.shape[-1], module.embed_dim, bias)
            law = Law("affine", "affine-like") if generated else Law("affine" if bias else "linear")
            self._take(Site(f"{prefix}{part}", f"{kind}.{part}", view, law, Shape.ROWS, {}, ("weight", "bias")), x)
        if not generated:
            self._output_projection(f"{prefix}out_proj", f"{kind}.out_proj", module)

    def _output_projection(self, name: str, kind: str, module: nn.MultiheadAttention) -> None:
        """Take what the output projection read, where its weight is trained and torch computed it in the open."""
        bias = module.out_proj.bias is not None and module.out_proj.bias.requires_grad
        view, law = affine_stand_in(module.embed_dim, module.embed_dim, bias), Law("affine" if bias else "linear")
        for x in self._output.read if module.out_proj.weight.requires_grad else ():
            self._take(Site(name, kind, view, law, Shape.ROWS, {}, ("weight", "bias")), x)
        if name not in self._factors:
            reason = "it is frozen, or torch computed it inside one kernel; verify.diagnose may meet it"
            self._refused.setdefault(name, Unjudged(name, kind, reason))


watch = Watch  # as a training loop writes it
