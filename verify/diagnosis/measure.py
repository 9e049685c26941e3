"""Diagnose a model: self factors, shares and the exact check at the first step, self factors after each later step.

arrange        model, batch, loss -> the arguments of model and loss
plan           model -> the layers that can be judged, and the others
observe        one pass -> loss, calls of the layers, gradients
shares         calls, gradients -> the contributions to the gradient's step, and whether it is the derived one
Stepper        gradients -> parameters after one step of the optimiser; at the end everything is restored
parts          calls before and after -> the contributions to each activation's change in the real step
verdict        all of it -> findings
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from derive.errors import UsageError
from verify.diagnosis.advice import advise
from verify.diagnosis.batch import Loss, Work, arrange, run
from verify.diagnosis.capture import Keep
from verify.diagnosis.findings.evidence import Evidence
from verify.diagnosis.findings.verdict import verdict
from verify.diagnosis.layers import Plan, plan
from verify.diagnosis.non_finite import located
from verify.diagnosis.observe import Observed, copies, observe
from verify.diagnosis.optimizer import Optimizer, Stepper, linear_part, made_optimizer
from verify.diagnosis.others import judge_others, still_unjudged, with_parts
from verify.diagnosis.parts import Moved
from verify.diagnosis.probes import entries_of
from verify.diagnosis.record import Diagnosis, LayerDiagnosis, Spread
from verify.diagnosis.records import (
    FirstStep,
    chosen_rows,
    evidence_of,
    judged_share,
    judged_shares,
    layer_record,
    shares_of,
    spread_of,
    unjudged_of,
)
from verify.diagnosis.scores import Later, Scores, judge_scores, scores_of, scores_with_parts, unjudged_scores
from verify.diagnosis.snapshot import Snapshot
from verify.diagnosis.step import Analysis
from verify.diagnosis.sums import same_bits
from verify.diagnosis.untouched import Randomness, untouched

NOWHERE = "no step can be taken from there"


def diagnose(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
    *,
    steps: int = 1,
    rate: float = 0.01,
    optimizer: Optimizer = None,
    scheduler: Any = None,
    before_step: Callable[[], Any] | None = None,
) -> Diagnosis:
    """Return how far each layer of a model is from moving every sample by the same factor, and the problems found.

    The model runs in its current mode and takes real steps. Afterwards its parameters, buffers, gradients and hooks,
    the optimiser and all random states are restored bit for bit, even after an exception. Compiled models run without
    their compiled graphs.

    Args:
        model: any ``torch.nn.Module``, also compiled, wrapped by DDP or sharded by FSDP2.
        batch: a tensor, a tuple of arguments, a mapping of keyword arguments, or a pair ``(inputs, target)``.
        loss: a function of the model's output, or of output and target, that returns one number; None if the output
            is the loss or has one as ``.loss``. The target is the second of a pair, otherwise the batch itself. A loss
            whose first argument is named ``model`` is called with the model and the batch, and may call the model
            several times.
        steps: the number of virtual steps on the batch; self factors are measured after each.
        rate: the learning rate of these steps if no optimiser is given.
        optimizer: an optimiser of ``torch.optim`` with its state, or a function from parameters to one; None for
            plain SGD.
        scheduler: has a method ``step``, called after each step.
        before_step: called between the backward pass and the step, for example to clip gradients.

    Raises:
        UsageError: the model has no trained parameters, the batch is on another device, the loss is not one number, the
            optimiser belongs to another model, or the user's code raises.
    """
    work = arrange(model, batch, loss)
    if steps < 0 or not rate > 0:
        raise UsageError(f"steps is {steps} and rate {rate}; give 0 or more steps and a rate above 0")
    eagerly = torch.compiler.set_stance("force_eager")  # hooks do not run inside compiled graphs
    roots = (model, batch, loss, optimizer, scheduler, before_step)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        eagerly,
        untouched(*roots, aside=model.parameters()) as state,
    ):
        inner = getattr(model, "_orig_mod", model)
        found = plan(inner)
        stepper = Stepper(
            made_optimizer(optimizer, inner, rate),
            before_step,
            scheduler,
            lambda: _again(inner, work),
        )
        return _Run(inner, work, found, stepper, roots, state).diagnosis(steps)


def _again(model: nn.Module, work: Work) -> Tensor:
    """Run forward and backward once, as a closure of an optimiser does."""
    for parameter in model.parameters():
        parameter.grad = None
    loss = run(work, model)
    loss.backward()
    return loss.detach()


@dataclass
class _Run:
    """One diagnosis in progress: the model, its arguments and the stepper."""

    model: nn.Module
    work: Work
    found: Plan
    stepper: Stepper
    roots: tuple[Any, ...]
    state: Snapshot

    def diagnosis(self, steps: int) -> Diagnosis:
        """Return the diagnosis over the given number of steps."""
        randomness = Randomness()
        first = observe(self.model, self.found, self.work, activity=True)
        held = self._parameters
        judged = {name: judged_shares(name, first, held) for name in first.captured.calls}
        history = {name: [spread_of(calls)] for name, calls in first.captured.calls.items()}
        self.rate, self.losses, self.stopped = self.stepper.rate, [float(first.loss)], ""
        self.pairs, self.scores = dict[str, Scores | str](), dict[str, LayerDiagnosis | str]()
        step, others = None, dict[str, LayerDiagnosis | str]()
        if not first.finite:
            randomness.restore()
            findings = tuple(located(self.model, self.work.tensors, lambda: run(self.work, self.model)))
            self.stopped = f"the loss or a gradient is not finite: {NOWHERE}" if steps else ""
        else:
            if first.captured.whole:
                with untouched(*self.roots, but=list(self.model.parameters())):
                    others = judge_others(self.found, first, self._parameters)
            with torch.no_grad():
                self.pairs = scores_of(first.captured, held)
                self.scores = judge_scores(self.pairs, held, first.gradients)
            step, others = self._steps(steps, first, history, randomness, others, judged)
            findings = ()
        layers = tuple(
            layer_record(calls, tuple(history[name]), shares_of(judged[name]), step.parts.get(name) if step else None)
            for name, calls in first.captured.calls.items()
        )
        layers = advise(layers, self.model)
        layers += tuple(r for r in (*others.values(), *self.scores.values()) if isinstance(r, LayerDiagnosis))
        findings = findings or verdict(self._evidence(first, layers, step))
        return Diagnosis(
            model=type(self.model).__name__,
            layers=layers,
            unjudged=(*still_unjudged(unjudged_of(self.found, first), others), *unjudged_scores(self.scores)),
            losses=tuple(self.losses),
            rate=self.rate,
            training=self.model.training,
            stopped=self.stopped,
            findings=findings,
            judged=judged_share(first, self._parameters, self.found, others),
            optimizer=type(self.stepper.optimizer).__name__,
        )

    @property
    def _parameters(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def _steps(
        self,
        steps: int,
        first: Observed,
        history: dict[str, list[Spread]],
        randomness: Randomness,
        others: dict[str, LayerDiagnosis | str],
        analyses: Mapping[str, Analysis | str],
    ) -> tuple[FirstStep | None, dict[str, LayerDiagnosis | str]]:
        """Take the steps; return the effect of the first (None without steps), also on modules of unknown kind."""
        drew, found = not randomness.same(), None
        probes = chosen_rows(first, analyses) if steps else {}
        for call in (call for calls in first.captured.calls.values() for call in calls):
            if call.site.gain:  # no rule reads a norm's entries, which need as much memory as the pass itself
                call.forget()
        if self.stepper.before_step is not None:  # which may clip gradients in place
            first.gradients = {name: g.clone() for name, g in first.gradients.items()}
        for number in range(steps):
            self.stepper.clip()
            before = self._before(first) if number == 0 else None
            self.stepper.step()
            kept = Later(self.pairs if before else {}, entries_of(probes if before else {}))
            repeat = before is not None and drew
            later = self._again_from(randomness, kept) if repeat and steps > 1 else None
            unseen = Plan() if repeat else self.found
            seen = observe(self.model, unseen, self.work, backward=number < steps - 1, kept=kept)
            if repeat and later is None:  # this is the last pass, so its side effects do not matter
                randomness.restore()
                later = observe(self.model, self.found, self.work, backward=False, kept=kept)
            if before:
                after = replace(before, after=self._parameters)
                found = FirstStep(first, later or seen, after, analyses, probes)
                with torch.no_grad():
                    self.scores = scores_with_parts(self.scores, self.pairs, kept, after)
                if others:
                    with untouched(*self.roots, but=list(self.model.parameters())):
                        others = with_parts(others, self.found, first, found.later, found.moved)
            if not seen.finite:
                self.stopped = f"the loss is {float(seen.loss)} after step {number + 1}: {NOWHERE}"
                break
            self.losses.append(float(seen.loss))
            for name, calls in (later or seen).captured.calls.items():
                if not calls[0].site.gain:
                    history.setdefault(name, []).append(spread_of(calls))
        return found, others

    def _before(self, first: Observed) -> Moved:
        """Return the parameters before the step, and the linear dependence of the step on the gradient."""
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        linear = linear_part(self.stepper, trained, first.gradients)
        kept = {name: self.state.numbers(p) for name, p in trained.items()}
        same = {name: held for name, held in kept.items() if held is not None and same_bits(held, trained[name])}
        before = {**self._parameters, **copies(trained, but=same), **same}
        return Moved(before, {}, first.gradients, linear, first.squares)

    def _again_from(self, randomness: Randomness, kept: Keep) -> Observed:
        """Run forward with the random numbers of the first pass, and restore the model's state."""
        with untouched(*self.roots):
            randomness.restore()
            return observe(self.model, self.found, self.work, backward=False, kept=kept)

    def _evidence(self, first: Observed, layers: tuple[LayerDiagnosis, ...], step: FirstStep | None) -> Evidence:
        return Evidence(
            inputs=self.work.inputs,
            layers=evidence_of(first, step, self._parameters),
            judged=layers,
            activity=first.activity,
            loss=float(first.loss),
            loss_after=float(step.later.loss) if step else None,
            rate=self.rate,
        )
