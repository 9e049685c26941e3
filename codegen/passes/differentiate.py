"""Reverse and forward mode for programs, one instruction at a time; SymPy differentiates scalar expressions.

    Convolve   T = sum A B where links hold     dA += sum dT B over the indices that A lacks, where the links hold
    Contract   T = sum A B                      the same without links
    Pointwise  T = F(a, b)                      da += sum dT F_a over the indices that a lacks
    Gather     T = A[positions]                 dA += dT at these positions: a scatter

    Forward mode: T. = F_a a. + F_b b., where a. is the tangent of a.

Every cotangent is a value of its own, so that a sum over patches is computed once, from one number per position. Only
``saved`` values are read from the forward pass; other forward values are recomputed. Programs of rows are rearranged
afterwards (``reassociate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sympy import Add, Expr, Indexed, Mul

from codegen.ir.program import (
    Contract,
    Convolve,
    Gather,
    Instruction,
    Magnitude,
    Mask,
    Peak,
    Pointwise,
    Program,
    ProgramError,
    Scatter,
    Value,
    entries,
    gradient_name,
    name_of,
    tangent_name,
)
from codegen.lower.sums import Emitter, joint_name
from codegen.passes.slopes import slope
from derive.algebra.index import Index
from derive.algebra.nodes import rename

Sum = Contract | Convolve
Constant = Magnitude | Mask | Peak


@dataclass(frozen=True)
class Rescaling:
    """``source = magnitude * value``: the rescaled input, whose products with cotangents stay in range."""

    value: Value
    magnitude: Value
    source: Value

    @property
    def definition(self) -> Pointwise:
        """The instruction that computes the rescaled input."""
        return Pointwise(self.value, self.source.entry / self.magnitude.entry)

    def applied(self, expression: Expr) -> Expr:
        """Return the expression with the source replaced by the rescaled input times its magnitude."""
        here = {e: e.indices for e in entries(expression) if name_of(e) == self.source.name}
        return expression.xreplace({e: self.magnitude.at(i[:1]) * self.value.at(i) for e, i in here.items()})


def reverse(
    program: Program, with_respect_to: Sequence[str], saved: Sequence[str], rescaling: Rescaling | None = None
) -> Program:
    """Return the program that computes the gradients ``d<name>`` from the cotangent ``g`` of the one output.

    Its inputs are ``g``, the forward inputs that it uses, and ``saved``. Equations are named
    ``<program>/backward-d<name>``. Raises ``ProgramError`` for a name that is not an input.
    """
    for name in with_respect_to:
        if name not in {v.name for v in program.inputs}:
            raise ProgramError(f"program {program.name!r} has no input {name!r} to differentiate with respect to")
    output = program.values[program.outputs[0]]
    cotangent = Value(next(n for n in ("g", "g_out", "cotangent") if n not in program.values), output.indices)
    sweep = _Reverse(program, cotangent)
    results = [sweep.result(name, rescaling) for name in with_respect_to]
    inputs = (cotangent, *program.inputs, *(program.values[name] for name in saved))
    again = tuple(i for i in program.instructions if i.target.name not in saved)
    whole = replace(
        program,
        name=f"{program.name}/backward",
        inputs=inputs,
        instructions=(*again, *sweep.emitter.instructions),
        outputs=tuple(results),
    )
    return whole.restricted(whole.name, whole.outputs)


class _Reverse:
    """Visits the instructions in reverse; ``terms`` are the summands of each cotangent at the value's own indices."""

    def __init__(self, program: Program, cotangent: Value) -> None:
        self._program = program
        self.emitter = _emitter(program, (cotangent,), {gradient_name(v.name) for v in program.inputs})
        self._terms: dict[str, list[Expr]] = {program.outputs[0]: [cotangent.entry]}
        for instruction in reversed(program.instructions):
            name = instruction.target.name
            if name in self._terms and not isinstance(instruction, Constant):
                self._push(instruction, self._settled(name).at(instruction.target.indices))

    def result(self, name: str, rescaling: Rescaling | None) -> str:
        """Emit the gradient with respect to an input and return its name."""
        value = self._program.values[name]
        target = replace(value, name=gradient_name(name))
        equation = f"{self._program.name}/backward-{target.name}"
        total = Add(*self._terms.get(name, []))
        alone = isinstance(total, Indexed) and not self._shared(name_of(total), name)
        if alone and self.emitter.renamed(total, target, equation):
            return target.name
        self.emitter.assign(target, rescaling.applied(total) if rescaling else total, equation)
        return target.name

    def _shared(self, value: str, name: str) -> bool:
        """Whether the cotangent of another input also uses a value."""
        others = [t for other, terms in self._terms.items() if other != name for t in terms]
        return any(name_of(e) == value for term in others for e in entries(term))

    def _settled(self, name: str) -> Value:
        """Return the value that holds the complete cotangent of a value."""
        value = self._program.values[name]
        total = Add(*self._terms[name])
        if isinstance(total, Indexed) and total.indices == value.indices:
            return Value(name_of(total), value.indices)
        target = Value(self.emitter.fresh(gradient_name(name)), value.indices)
        self.emitter.assign(target, total)
        return target

    def _push(self, instruction: Instruction, cotangent: Indexed) -> None:
        if isinstance(instruction, Pointwise):
            for entry, rate in _partials(instruction):
                self._add(entry, self._summed(cotangent, rate, entry))
            return
        if isinstance(instruction, Gather):
            self._add(instruction.operand, self._scattered(instruction, cotangent))
            return
        assert isinstance(instruction, Sum), f"no reverse mode for {type(instruction).__name__}"
        for place, operand in enumerate(instruction.operands):
            others = [o for k, o in enumerate(instruction.operands) if k != place]
            self._add(operand, self._product(instruction, operand, [cotangent, *others]))

    def _product(self, instruction: Sum, operand: Indexed, factors: list[Indexed]) -> Expr:
        """Return the sum of a product over the indices that an operand lacks."""
        joined = {*instruction.target.indices, *instruction.summed}
        summed = sorted(joined - set(operand.indices), key=Index.sort_key)
        if not summed:
            return Mul(*factors)
        if isinstance(instruction, Contract):
            return self.emitter.contraction(factors, summed)
        given = any(v.name == name_of(operand) for v in self._program.inputs)
        name = self.emitter.fresh(joint_name(factors) if given else gradient_name(name_of(operand)))
        target = Value(name, tuple(operand.indices))
        return self.emitter.convolution(factors, summed, instruction.links, target)

    def _scattered(self, instruction: Gather, cotangent: Indexed) -> Indexed:
        """Emit the cotangent of a gathered tensor at the indices of the instruction's operand."""
        operand = instruction.operand
        given = any(v.name == name_of(operand) for v in self._program.inputs)
        name = f"{name_of(operand)}_part" if given else gradient_name(name_of(operand))
        target = Value(self.emitter.fresh(name), tuple(operand.indices))
        self.emitter.append(Scatter(target, cotangent, instruction.positions))
        return target.entry

    def _summed(self, cotangent: Indexed, rate: Expr, entry: Indexed) -> Expr:
        """Return the sum of ``cotangent * rate`` over the indices that an entry lacks, constant factors outside."""
        missing = sorted(set(cotangent.indices) - set(entry.indices), key=Index.sort_key)
        if not missing:
            return cotangent * rate
        parts = Mul.make_args(rate)
        inside = [p for p in parts if any(i in e.indices for e in entries(p) for i in missing)]
        outside = Mul(*(p for p in parts if p not in inside))
        return outside * self.emitter.contraction(self.emitter.operands([cotangent, *inside]), missing)

    def _add(self, entry: Indexed, term: Expr) -> None:
        """Add a term to the cotangent of an entry, at the value's own indices."""
        value = self._program.values[name_of(entry)]
        own = {old: new.fresh() for old, new in zip(entry.indices, value.indices, strict=True)}
        back = dict(zip(own.values(), value.indices, strict=True))
        self._terms.setdefault(value.name, []).append(rename(rename(term, own), back))


def forward_mode(program: Program, saved: Sequence[str]) -> Program:
    """Return the program of the tangent ``<output>_t`` from the tangents ``<name>_t`` of all inputs.

    Its inputs are the forward inputs, ``saved`` and the tangents; its equation is named ``<program>/tangent``.
    """
    tangents = tuple(Value(tangent_name(v.name), v.indices) for v in program.inputs)
    emitter = _emitter(program, tangents, {tangent_name(i.target.name) for i in program.instructions})
    moving = {v.name for v in program.inputs}
    for instruction in program.instructions:
        terms = [] if isinstance(instruction, Constant) else _tangent_terms(emitter, instruction, moving)
        if terms:
            target = instruction.target
            last = target.name == program.outputs[0]
            equation = f"{program.name}/tangent" if last else ""
            name, total = tangent_name(target.name), Add(*terms)
            named = replace(target, name=name)
            alone = isinstance(total, Indexed) and not _read_again(program, total, instruction)
            if not (alone and emitter.renamed(total, named, equation)):
                emitter.assign(named, total, equation)
            moving.add(target.name)
    output = tangent_name(program.outputs[0])
    inputs = (*program.inputs, *(program.values[name] for name in saved), *tangents)
    again = tuple(i for i in program.instructions if i.target.name not in saved)
    instructions = (*again, *emitter.instructions)
    whole = replace(program, inputs=inputs, instructions=instructions, outputs=(output,))
    return whole.restricted(f"{program.name}/tangent", (output,))


def _read_again(program: Program, tangent: Indexed, reader: Instruction) -> bool:
    """Whether instructions other than ``reader`` read the value whose tangent this is (False if it is no tangent)."""
    others = {name_of(e) for i in program.instructions if i is not reader for e in i.reads}
    return name_of(tangent) in {tangent_name(name) for name in others}


def _tangent_terms(emitter: Emitter, instruction: Instruction, moving: set[str]) -> list[Expr]:
    """Return the terms of an instruction's tangent, one for each entry that has a tangent."""
    if isinstance(instruction, Pointwise):
        return [rate * _moved(e) for e, rate in _partials(instruction) if name_of(e) in moving]
    if isinstance(instruction, Gather):
        if name_of(instruction.operand) not in moving:
            return []
        target = replace(instruction.target, name=emitter.fresh(tangent_name(instruction.target.name)))
        emitter.append(replace(instruction, target=target, operand=_moved(instruction.operand), equation=""))
        return [target.entry]
    assert isinstance(instruction, Sum), f"no forward mode for {type(instruction).__name__}"
    terms: list[Expr] = []
    operands = instruction.operands
    for operand in dict.fromkeys(o for o in operands if name_of(o) in moving):
        others = list(operands)
        others.remove(operand)
        terms.append(operands.count(operand) * _replayed(emitter, instruction, [_moved(operand), *others]))
    return terms


def _partials(instruction: Pointwise) -> list[tuple[Indexed, Expr]]:
    """Return pairs of an entry that is read and the derivative with respect to it."""
    return [(e, slope(instruction.expression, e, instruction.target.entry)) for e in entries(instruction.expression)]


def _replayed(emitter: Emitter, instruction: Sum, operands: list[Indexed]) -> Indexed:
    """Emit the same sum over other operands and return its entry."""
    name = emitter.fresh(joint_name(operands))
    target = replace(instruction.target, name=name)
    if isinstance(instruction, Convolve):
        return emitter.convolution(operands, instruction.summed, instruction.links, target)
    return emitter.contraction(operands, instruction.summed, target)


def _moved(entry: Indexed) -> Indexed:
    """Return the tangent of an entry."""
    return Value(tangent_name(name_of(entry)), tuple(entry.indices)).entry


def _emitter(program: Program, more: Sequence[Value], taken: set[str]) -> Emitter:
    """Return an emitter that knows every value of a program, its axes of space and the reserved names."""
    links = [link for i in program.instructions if isinstance(i, Convolve) for link in i.links]
    space = {index.size for link in links for index in link.indices}
    return Emitter({**program.values, **{v.name: v for v in more}}, space, taken=frozenset(taken))
