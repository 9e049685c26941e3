"""The plan of attention's value path: its corrected map as a map of the mixed input of each token and head.

    solved    z[r,t] = f (A v)[r,t]             f from the inputs y mixed by the attention weights A
    printed   z[r,t] = f (W[r] x[r,t] + b[r])   x[r,t] = sum over k of A[r,t,k] y[k], the mixed input

The second is the affine-like map of each head's mixed input. This module proves that the two are equal, so that the
mixing may be done by any attention kernel, even one that never stores the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from sympy import Expr, Indexed

from codegen.ir.program import Program, ProgramError
from codegen.plans.digest import digest
from codegen.plans.rows import Plan, plan
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, map_entries
from derive.cancel import solve
from derive.declare import forward
from derive.forward_map import Layer
from derive.layers import layer
from derive.record import CancellingMap

NAME = "affine-like"


@dataclass(frozen=True)
class ValuePath:
    """The corrected value path ``solution``, and the equal map of the mixed input with its ``plan``."""

    solution: CancellingMap
    by_head: CancellingMap
    plan: Plan

    @property
    def digest(self) -> str:
        """The digest of the solved map."""
        return digest(self.solution.mapped)


@cache
def value_path() -> ValuePath:
    """Return the value path's plan; raise ``ProgramError`` if the map of the mixed input differs."""
    solution = solve(layer("attention-value"))[NAME]
    by_head = solve(_mixed_input())[NAME]
    if not equal(_mixed(by_head.mapped, solution.mapped), _written_out(solution.mapped)):
        raise ProgramError(f"{solution.mapped.name!r} is not the map of the mixed input, which its code computes")
    found = plan(by_head)
    names = _equations(by_head.mapped, solution.mapped)
    return ValuePath(
        solution,
        by_head,
        replace(
            found,
            scale=_renamed(found.scale, names),
            forward_scaled=_renamed(found.forward_scaled, names),
            digest=digest(solution.mapped),
        ),
    )


def _mixed_input() -> Layer:
    """Return the value projection of the mixed input, which has its own token for every head."""
    return forward(
        "attention-value",
        title="Value path as a map of the mixed input",
        sizes="n d R T",
        inputs={"x": "R T n"},
        parameters={"W": "R d n", "b": "R d"},
        formulas=["z[r, t, h] = sum[j](W[r, h, j]*x[r, t, j]) + b[r, h]"],
    )


def _written_out(mapped: Layer) -> Expr:
    return expand_definitions(mapped.output.expression, mapped.scope)


def _mixed(by_head: Layer, mapped: Layer) -> Expr:
    """Return the map of the mixed input, with the mixed input written out as inputs mixed by attention weights."""
    weights = next(d for d in mapped.definitions if d.name == "A")
    inputs = next(t for t in mapped.inputs if t.name == "y")

    def mixture(entry: Indexed) -> Expr:
        """Return an entry of a head's mixed input as a sum over inputs with attention weights."""
        if str(entry.base.label) != by_head.inputs[0].name:
            return entry
        batch, head, token, feature = entry.indices
        source = Index("k", weights.indices[-1].size).fresh()
        weight = weights.base[batch, head, token, source]
        return IndexedSum(weight * inputs.base[batch, source, feature], source)

    return expand_definitions(map_entries(_written_out(by_head), mixture), mapped.scope)


def _equations(by_head: Layer, mapped: Layer) -> dict[str, str]:
    """Map each equation name of the mixed input's map to the solved map's: the last ones, in order."""
    own = [f"{by_head.name}/define-{d.name}" for d in by_head.definitions]
    solved = [f"{mapped.name}/define-{d.name}" for d in mapped.definitions][-len(own) :]
    return dict(zip(own, solved, strict=True))


def _renamed(program: Program, names: dict[str, str]) -> Program:
    instructions = (replace(i, equation=names.get(i.equation, i.equation)) for i in program.instructions)
    return replace(program, instructions=tuple(instructions))
