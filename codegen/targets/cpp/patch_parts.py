"""The parts of the arithmetic of a convolution's map: C++ functions, and instructions found by their operands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from codegen.ir.program import Contract, Convolve, Pointwise, Program, Value, name_of
from codegen.plans.patches import PatchPlan
from codegen.printing.c_kernels import assigned
from codegen.printing.c_names import identifier
from codegen.printing.c_scalars import ScalarPrinter
from derive.errors import UsageError

_Kind = TypeVar("_Kind", Contract, Convolve, Pointwise)

ENTRY, NUMBER = "Element", "Wide"  # the types of an entry, and of a number per position
PRINTER = ScalarPrinter(lambda entry: identifier(name_of(entry)))


@dataclass(frozen=True)
class Function:
    """A C++ function: its name, the one type of its parameters and result, its parameters, lines and result."""

    name: str
    kind: str
    parameters: tuple[str, ...]
    lines: tuple[str, ...]
    result: str

    @classmethod
    def of(cls, name: str, kind: str, parameters: Sequence[str], lines: Sequence[str], result: str) -> Function:
        """Return the function whose parameters are values of a program, by name; "" for an ignored one."""
        return cls(name, kind, tuple(identifier(p) if p else "" for p in parameters), tuple(lines), result)

    @property
    def signature(self) -> str:
        """The parameters with their types; one that no line reads has no name."""
        read = set(re.findall(r"\w+", " ".join((*self.lines, self.result))))
        return ", ".join(f"{self.kind} {p}" if p in read else self.kind for p in self.parameters)


@dataclass(frozen=True)
class Centring:
    """The values by which patches are centred, by name.

    ``entries`` is the sum over the input's channels, ``patch`` its sum over a patch, ``mean`` the mean computed from
    it, and ``filters`` the sum of the weight over a patch:

        h = sum[c,k](W*x) - filters*mean + .. = sum[c,k](W*(x - mean)) + ..
    """

    entries: str
    patch: str
    mean: str
    filters: str


def centring(plan: PatchPlan) -> Centring | None:
    """Return the values that centre the patches of a map; None for a map of uncentred patches."""
    source, weight = plan.input_names[:2]
    program = plan.forward
    if not any({name_of(e) for e in i.reads} == {weight} for i in program.instructions):
        return None
    entries = one(plan, program, Contract, {source}).target.name
    patch = one(plan, program, Convolve, {entries}).target.name
    mean = one(plan, program, Pointwise, {patch}).target.name
    return Centring(entries, patch, mean, one(plan, program, Contract, {weight}).target.name)


def one(plan: PatchPlan, program: Program, kind: type[_Kind], reads: set[str]) -> _Kind:
    """Return the only instruction of a kind that reads exactly these; raise ``UsageError`` if there is not one."""
    found = [i for i in program.instructions if isinstance(i, kind) and {name_of(e) for e in i.reads} == reads]
    if len(found) != 1:
        listed = " and ".join(sorted(reads))
        raise UsageError(f"map {plan.layer.name!r}: {len(found)} steps of a pass read {listed}, not one")
    return found[0]


def convolved(plan: PatchPlan) -> Value:
    """Return the convolution of input and weight; raise ``UsageError`` if there is not exactly one."""
    return one(plan, plan.forward, Convolve, set(plan.input_names[:2])).target


def is_transposed(plan: PatchPlan) -> bool:
    """Return whether the convolution is transposed: its output is in the ``long`` space of the links."""
    product = one(plan, plan.forward, Convolve, set(plan.input_names[:2]))
    return all(link.long in product.target.indices for link in product.links)


def bias_of(plan: PatchPlan) -> str:
    """Return the name of the bias, "" without one."""
    return plan.input_names[2] if len(plan.input_names) > 2 else ""


def assigning(
    name: str, kind: str, parameters: Sequence[str], instructions: Sequence[Pointwise], result: str = ""
) -> Function:
    """Return the function that executes instructions; its result is the last one's target, or the named value."""
    lines = [assigned(i, PRINTER) for i in instructions]
    return Function.of(name, kind, parameters, lines, result or instructions[-1].target.name)
