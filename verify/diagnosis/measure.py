"""Diagnose a model: self factors, shares and the exact check at the first step, self factors again after each step.

arrange        model, batch, loss -> what is called with what
plan           model -> layers that can be judged, and the others
observe        one pass -> loss, calls of the layers, gradients
shares         calls, gradients -> what the gradient's step is made of, and whether it is the derived one
Stepper        gradients -> parameters after one step of the optimiser; afterwards everything is put back
parts          calls before and after -> what the real step did to each activation
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

NOWHERE = "a step from there goes nowhere"


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
    """Return how far each layer of a model is from moving every sample by the same factor, and what is wrong.

    The model is run in the mode that it is in, and takes real steps; it, what it holds, its gradients, hooks, the
    optimiser and all random states are afterwards, bit for bit, what they were before, whatever happens inside.
    Compiled models run without their compiled graphs.

    Args:
        model: any ``torch.nn.Module``, also compiled, wrapped by DDP or sharded by FSDP2.
        batch: a tensor, a tuple of arguments, a mapping of keyword arguments, or a pair ``(inputs, target)``.
        loss: a function of the model's output, or of output and target, that returns one number; None where the output
            is the loss or has one as ``.loss``. Targets: the second of a pair, otherwise the batch itself. A loss whose
            first argument is named ``model`` gets the model, to call it as often as it likes, and the batch.
        steps: how many virtual steps to take on the batch, after each of which self factors are measured again.
        rate: the learning rate of these steps where no optimiser is given.
        optimizer: one of ``torch.optim``, with the state that it is in, or a function that makes one of parameters;
            None for plain SGD.
        scheduler: has a method ``step``, called after each step.
        before_step: called between the backward pass and the step, as for clipping gradients.

    Raises:
        UsageError: a model without trained parameters, a batch on another device, a loss that is not one number, an
            optimiser of another model, code of the user's that raises.
    """
    work = arrange(model, batch, loss)
    if steps < 0 or not rate > 0:
        raise UsageError(f"steps is {steps} and rate {rate}; give no fewer than 0 steps and a rate above 0")
    eagerly = torch.compiler.set_stance("force_eager")  # hooks do not reach into compiled graphs
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
    """One diagnosis under way: what runs, and what steps."""

    model: nn.Module
    work: Work
    found: Plan
    stepper: Stepper
    roots: tuple[Any, ...]
    state: Snapshot

    def diagnosis(self, steps: int) -> Diagnosis:
        """Return the diagnosis over so many steps."""
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
        """Take the steps; return what the first one did, None without one, and so of modules of unknown kind."""
        drew, found = not randomness.same(), None
        probes = chosen_rows(first, analyses) if steps else {}
        for call in (call for calls in first.captured.calls.values() for call in calls):
            if call.site.gain:  # no rule reads a norm's entries, and they fill as much memory as the pass itself
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
            if repeat and later is None:  # nothing follows, so that no trace of it can matter
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
        """Return the parameters before the step, and how the step depends on the gradient."""
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        linear = linear_part(self.stepper, trained, first.gradients)
        kept = {name: self.state.numbers(p) for name, p in trained.items()}
        same = {name: held for name, held in kept.items() if held is not None and same_bits(held, trained[name])}
        before = {**self._parameters, **copies(trained, but=same), **same}
        return Moved(before, {}, first.gradients, linear, first.squares)

    def _again_from(self, randomness: Randomness, kept: Keep) -> Observed:
        """Run forward with the random numbers of the first pass, leaving no trace in the model."""
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
