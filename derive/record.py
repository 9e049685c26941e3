"""The records of a derivation: steps with equation ids, their status, and the classified result.

Everything here is data. Deriving is in ``update``, checking in ``check``, printing in ``export``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sympy import Expr

from derive.forward_map import Definition, Layer


class Status(StrEnum):
    """How far a step, or a statement of a result, is verified; ``MEANINGS`` says what each word means."""

    PROVED = "proved"
    SAMPLED = "sampled"
    UNVERIFIED = "unverified"
    REFUTED = "refuted"


MEANINGS: Mapping[Status, str] = {
    Status.PROVED: "both sides have one normal form, by code that the deriver uses, and independent evaluation agrees",
    Status.SAMPLED: "independent evaluation agrees, without a proof",
    Status.REFUTED: "a counterexample was found, and is shown",
    Status.UNVERIFIED: "neither a proof nor a counterexample, for the reason given",
}
"""The meaning of each verdict. For a limit or a bound, evaluation can only say that it found no counterexample."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of checking a step or a statement: its status and the method, or the counterexample, in words."""

    status: Status
    method: str


@dataclass(frozen=True)
class Claim:
    """A statement of a result, such as the kernel or a residual, with the verdict of independent evaluation.

    ``id`` is ``<layer>/result-<what>``; ``statement`` is in words, formulas between backticks.
    """

    id: str
    statement: str
    verdict: Verdict


@dataclass(frozen=True)
class Step:
    """One rewriting ``before = after`` with a stable equation id such as ``affine/self-factor``.

    ``target`` is what the equation is about (``z[s, i]``, ``K``); ``rule`` describes the rewriting in words. ``scope``
    holds the intermediates that ``before`` and ``after`` may mention, in order.
    """

    id: str
    rule: str
    target: Expr
    before: Expr
    after: Expr
    scope: tuple[Definition, ...] = ()
    verdict: Verdict = field(default=Verdict(Status.UNVERIFIED, "not checked yet"), compare=False)

    def _repr_latex_(self) -> str:
        from derive.export.notebook import latex_cell

        return latex_cell(self)

    def _repr_html_(self) -> str:
        from derive.export.notebook import html_cell

        return html_cell(self)


@dataclass(frozen=True)
class SelfFactor:
    """The self factor ``K_ss`` of one sample, as a matrix over units.

    ``shape`` is ``isotropic`` (a scalar times I), ``diagonal`` (varies over units) or ``full``. ``expression`` is the
    scalar or diagonal entry; for a full matrix it is the whole entry, unit index and primed unit index free.
    """

    expression: Expr
    shape: str
    parameter_free: bool

    @property
    def isotropic(self) -> bool:
        """Whether every unit of a sample is moved by the same factor and no unit moves another."""
        return self.shape == "isotropic"


@dataclass(frozen=True)
class Derivation:
    """The effective activation update of a layer under one update rule, step by step.

    ``order_in_eta`` is the highest power of eta in the change of the activation (None: all powers). ``kernel`` is
    ``K[sample, unit; sample', unit']``, ``cross_terms`` the same for two different samples. ``solutions`` are
    cancelling maps, ``refusals`` the kinds of map that do not exist, each with its ``kind`` and ``reason``. ``claims``
    are the statements of the result with their verdicts, once it has been checked.
    """

    layer: Layer
    rule: str
    steps: tuple[Step, ...]
    kernel: Expr
    self_factor: SelfFactor
    cross_terms: Expr
    order_in_eta: int | None
    samples: tuple[Any, ...]
    units: tuple[Any, ...]
    solutions: tuple[Any, ...] = ()
    assumptions: tuple[str, ...] = ()
    refusals: tuple[Any, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def exact_in_eta(self) -> bool:
        """Whether the activation moves by exactly ``-eta K g``, for any eta."""
        return self.order_in_eta == 1

    def step(self, name: str) -> Step:
        """Return the step whose id is ``name`` or ends in ``/name``; raise KeyError with the known ids."""
        for step in self.steps:
            if step.id == name or step.id.endswith("/" + name):
                return step
        raise KeyError(f"no step {name!r}; steps: {', '.join(s.id for s in self.steps)}")

    def check(self) -> Derivation:
        """Return the derivation with the verdicts of its steps and of its result filled in by ``derive.check``."""
        from derive.check import checked

        return checked(self)

    def latex(self) -> str:
        """Return the derivation as a LaTeX fragment with labelled equations."""
        from derive.export.latex import fragment

        return fragment(self)

    def to_json(self) -> dict[str, Any]:
        """Return the derivation in the schema ``affdiv.derivation/1``."""
        from derive.export.json_schema import derivation_to_json

        return derivation_to_json(self)

    def _repr_latex_(self) -> str:
        from derive.export.notebook import latex_cell

        return latex_cell(self)

    def _repr_html_(self) -> str:
        from derive.export.notebook import html_cell

        return html_cell(self)


@dataclass(frozen=True)
class Property:
    """A property of a map: whether it holds (None: open), and how that was established.

    ``basis`` is ``derived``, ``counterexample``, ``no counterexample`` (evaluation found none, so the value is open),
    ``undecided`` or ``not applicable``; ``reason`` says why, formulas between backticks.
    """

    name: str
    value: bool | None
    basis: str
    reason: str


@dataclass(frozen=True)
class Limit:
    """The limit of a map along a ray, in terms of the parts of the layer's output.

    ``kind`` is ``value`` (``factor`` times the weight part, plus ``offset`` times the offsets), ``length`` (the weight
    part divided by its length sqrt(E) instead), ``direction`` (the weight part keeps the length ``factor``, whatever
    its direction), ``unbounded``, ``turning``, ``constant`` (along rays), ``unknown`` or ``not applicable``. ``rest``
    does not depend on the parameters; the limit holds along every ray on which ``where`` is positive.
    """

    kind: str
    weights: tuple[str, ...]
    offsets: tuple[str, ...]
    factor: Expr
    offset: Expr
    rest: Expr
    where: Expr
    reason: str


@dataclass(frozen=True)
class CancellingMap:
    """A forward map that cancels the divergence of ``layer``, with its computed properties.

    ``mapped`` is a layer like any other (its own effective update can be derived); ``scales`` are the scalar functions
    of the sample that multiply each parameter's part of the output. ``weight_scale`` is the standard
    deviation of the weights that keeps the variance of the activation; ``angle`` is t(r) in f = sqrt(kappa) sin(t)/r.
    ``decomposition`` splits the map into an activation-like map of the length r, the offset entry beside it, and a
    scale. ``properties`` describe the map's behaviour and how each was established. ``singular`` holds expressions that
    all vanish where the map is singular (empty: it is singular only where the layer is). kappa must exceed
    ``kappa_above``.
    """

    name: str
    kind: str
    layer: Layer
    mapped: Layer
    scales: tuple[tuple[str, Expr], ...]
    kappa: Expr
    kappa_default: Expr
    self_factor: Expr
    residual: Expr
    kappa_above: Expr
    properties: tuple[Property, ...]
    zero: Limit
    infinity: Limit
    singular: tuple[Expr, ...]
    weight_scale: Expr
    angle: Expr | None
    decomposition: tuple[tuple[str, Expr], ...]
    steps: tuple[Step, ...]
    claims: tuple[Claim, ...] = ()

    def established(self, name: str) -> Property:
        """Return a property by name; raise KeyError with the known names."""
        for found in self.properties:
            if found.name == name:
                return found
        raise KeyError(f"no property {name!r}; properties: {', '.join(p.name for p in self.properties)}")

    @property
    def energy(self) -> Definition:
        """The definition of E, the weights' contribution to the self factor: the first that a map adds to its layer."""
        return self.mapped.definitions[len(self.layer.definitions)]

    @property
    def scale_invariant(self) -> bool | None:
        """Whether multiplying all real inputs by one positive number changes nothing; None if that is open."""
        return self.established("scale_invariant").value

    @property
    def injective(self) -> bool | None:
        """Whether the outputs determine the inputs for all values of the parameters; None if that is open."""
        return self.established("injective").value

    @property
    def singular_at_zero(self) -> bool | None:
        """Whether the output has no limit as the real inputs tend to zero; None if that is open."""
        return self.established("singular_at_zero").value

    @property
    def limit_zero(self) -> str:
        """The limit of the map as the real inputs tend to zero, in text."""
        from derive.export.limits import limit_text

        return limit_text(self.zero, self.energy.name)

    @property
    def limit_infinity(self) -> str:
        """The limit of the map as the real inputs grow, in text."""
        from derive.export.limits import limit_text

        return limit_text(self.infinity, self.energy.name)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """The assumptions of the map, in text."""
        from derive.export.limits import assumptions
        from derive.export.prose import plain

        return tuple(map(plain, assumptions(self)))

    @property
    def map(self) -> Expr:
        """The corrected output, as an expression of inputs, parameters and the mapped layer's intermediates."""
        return self.mapped.output.expression

    def to_json(self) -> dict[str, Any]:
        """Return the map as one entry of ``solutions`` in ``affdiv.derivation/1``."""
        from derive.export.json_schema import map_to_json

        return map_to_json(self)

    def _repr_latex_(self) -> str:
        from derive.export.notebook import latex_cell

        return latex_cell(self)

    def _repr_html_(self) -> str:
        from derive.export.notebook import html_cell

        return html_cell(self)
