"""What a derivation is made of: steps with equation ids, their status, and the classified result.

Everything here is data. Deriving is in ``update``, checking in ``check``, printing in ``export``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sympy import Expr

from derive.forward_map import Definition, Layer


class Status(StrEnum):
    """How far a step is verified."""

    PROVED = "proved"
    SAMPLED = "sampled"
    UNVERIFIED = "unverified"
    REFUTED = "refuted"


@dataclass(frozen=True)
class Verdict:
    """The outcome of checking a step: its status and the method, or the counter-example, in words."""

    status: Status
    method: str


@dataclass(frozen=True)
class Step:
    """One rewriting ``before = after`` with a stable equation id such as ``affine/self-factor``.

    ``target`` is what the equation is about (``z[s, i]``, ``K``); ``rule`` says in words what was done. ``scope``
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
    cancelling maps, ``refusals`` the kinds of map that do not exist, each with its ``kind`` and ``reason``.
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
        """Return the derivation with every step's verdict filled in by ``derive.check``."""
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
class CancellingMap:
    """A forward map that cancels the divergence of ``layer``, with its computed properties.

    ``mapped`` is a layer like any other (its own effective update can be derived); ``scales`` are the scalar functions
    of the sample that multiply the part of the output carried by each parameter. ``weight_scale`` is the standard
    deviation of the weights that keeps the variance of the activation; ``angle`` is t(r) in f = sqrt(kappa) sin(t)/r.
    ``decomposition`` splits the map into an activation-like map of the length r, the offset entry beside it, and a
    scale.
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
    scale_invariant: bool
    injective: bool | None
    singular_at_zero: bool
    limit_zero: str
    limit_infinity: str
    weight_scale: Expr
    angle: Expr | None
    decomposition: tuple[tuple[str, Expr], ...]
    assumptions: tuple[str, ...]
    steps: tuple[Step, ...]

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
