"""Instructions as lines of PyTorch, in one of two styles.

portable    no tensor is overwritten and types promote: for graphs that are differentiated again, and for 16 bit
in place    buffers that the program owns are reused: for 32 and 64 bit if no graph is recorded

In the portable style a row scale and all values computed with it are *wide*: at least float32. Matrix products are
computed, and results returned, in the input's type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import sympy
from sympy import Add, Expr, Indexed

from codegen.ir.program import Contract, Convolve, Instruction, Magnitude, Peak, Placed, Pointwise, Program, name_of
from codegen.printing.buffers import buffers, shortest_chain
from codegen.printing.contractions import Operands, Term, contraction
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.layout import broadcast, check_rank, is_column, sizes
from derive.errors import UsageError


@dataclass(frozen=True)
class Line:
    """One assignment: the name assigned, the expression's text, and the equation that it implements."""

    target: str
    text: str
    equation: str = ""

    def printed(self, width: int = 100) -> list[str]:
        """Return the line with its equation in a comment at its end, or before it if the line would be too long."""
        code = f"{self.target} = {self.text}"
        if not self.equation:
            return [code]
        whole = f"{code}  # {self.equation}"
        return [whole] if len(whole) <= width else [f"# {self.equation}", code]


@dataclass(frozen=True)
class Style:
    """A style: ``own`` names the tensor whose type results have (None: no cast), ``wide`` the wide inputs."""

    in_place: bool = False
    own: str | None = None
    wide: frozenset[str] = frozenset()


def printed(lines: Iterable[Line]) -> list[str]:
    """Return the lines of Python, comments included."""
    return [text for line in lines for text in line.printed()]


class TorchPrinter:
    """Prints the instructions of one program in one style."""

    def __init__(self, program: Program, style: Style) -> None:
        check_rank(program)
        self._program, self._biases = _with_biases(program)
        self._style = style
        self._wide = set(style.wide)
        self._sizes = sizes(program)
        self._lengths = {found[0]: found for found in _lengths(program)}
        self._within_length = {name for found in self._lengths.values() for name in found[1:]}
        self._operands = Operands(name_of, self._narrowed, lambda e: name_of(e) in self._wide, not style.in_place)

    def lines(self, names: Iterable[str] | None = None) -> list[Line]:
        """Return the lines that assign the named values (by default all); chained calls are joined into one line."""
        chosen = None if names is None else set(names)
        result: list[Line] = []
        for instruction in self._program.instructions:
            if chosen is not None and instruction.target.name not in chosen:
                continue
            if instruction.target.name in self._within_length:
                continue
            line = self._line(instruction)
            if result and self._goes_on(result[-1], line):
                line = replace(line, text=result[-1].text + line.text.removeprefix(result[-1].target))
                result.pop()
            result.append(line)
        return result

    def _goes_on(self, previous: Line, line: Line) -> bool:
        """Whether the line starts with the previous line's value and is its only use."""
        reads = [name_of(e) for i in self._program.instructions for e in i.reads]
        starts = line.text == previous.target or line.text.startswith(f"{previous.target}.")
        once = len(re.findall(rf"\b{previous.target}\b", line.text)) == 1
        return starts and once and reads.count(previous.target) == 1 and previous.text.endswith(")")

    def _line(self, instruction: Instruction) -> Line:
        if isinstance(instruction, Magnitude):
            return self._length(instruction)
        assert not isinstance(instruction, Peak), "programs of rows have no peak"
        term = self._term(instruction)
        name = instruction.target.name
        if term.wide:
            self._wide.add(name)
        casts = term.wide and name in self._program.outputs and self._style.own and not self._style.in_place
        text = f"{term.operand}.to({self._style.own}.dtype)" if casts else term.text
        return Line(name, text, instruction.equation)

    def _term(self, instruction: Contract | Convolve | Pointwise | Placed) -> Term:
        if isinstance(instruction, Convolve | Placed):
            kind = type(instruction).__name__.lower()
            raise UsageError(
                f"{self._program.name!r}: {instruction.target.name!r} is a {kind}, which this printer does not support"
            )
        if isinstance(instruction, Contract):
            return contraction(instruction, self._operands, self._biases.get(instruction.target.name))
        return self._pointwise(instruction)

    def _length(self, instruction: Magnitude) -> Line:
        """Print a magnitude and the sum of squares of the quotient by it as one call."""
        if instruction.target.name not in self._lengths:
            raise UsageError(f"the torch target prints {instruction.target.name!r} only before a sum of squares")
        peak, _, total = self._lengths[instruction.target.name]
        self._wide |= {peak, total}
        equation = self._program.producers[total].equation
        return Line(f"{peak}, {total}", f"length({name_of(instruction.operand)})", equation)

    def _pointwise(self, instruction: Pointwise) -> Term:
        printer = ExpressionPrinter(lambda e: broadcast(e, instruction.target), self._sizes)
        wide = any(name_of(e) in self._wide for e in instruction.reads)
        if isinstance(instruction.expression, sympy.Piecewise):
            return Term(_where_zero(instruction.expression, printer), wide=wide)
        free = buffers(self._program, instruction)
        worth = len(instruction.target.indices) > 1 or is_column(instruction.target.indices)
        if (self._style.in_place and worth) or instruction.expression in free:
            text = shortest_chain(instruction.expression, free, printer)
            if text is not None:
                return Term(text, wide=wide)
        return Term(printer.text(instruction.expression), isinstance(instruction.expression, Indexed), wide)

    def _narrowed(self, entry: Indexed) -> str:
        name = name_of(entry)
        casts = name in self._wide and self._style.own and not self._style.in_place
        return f"{name}.to({self._style.own}.dtype)" if casts else name


def _lengths(program: Program) -> list[tuple[str, str, str]]:
    """Return the names of each magnitude, of the quotient by it, and of the sum of that quotient's squares."""
    found = []
    for peak in (i for i in program.instructions if isinstance(i, Magnitude)):
        quotient = peak.operand / peak.target.entry
        for ratio in program.instructions:
            if isinstance(ratio, Pointwise) and ratio.expression == quotient:
                users = [i for i in program.instructions if ratio.target.entry in i.reads]
                if len(users) == 1 and users[0].reads == (ratio.target.entry, ratio.target.entry):
                    found.append((peak.target.name, ratio.target.name, users[0].target.name))
    return found


def _where_zero(expression: sympy.Piecewise, printer: ExpressionPrinter) -> str:
    """``Piecewise((value, Eq(q, 0)), (q, True))``: the same tensor with another value where it is zero."""
    (value, condition), (otherwise, _) = expression.args
    name = printer.text(otherwise)
    return f"{name}.masked_fill({printer.text(condition.lhs)} == {condition.rhs}, {printer.text(value)})"


def _with_biases(program: Program) -> tuple[Program, dict[str, str]]:
    """Fuse the addition of a vector into the matrix product if that is the product's only use.

    Returns the program without those additions, and the vector's name for each product.
    """
    biases: dict[str, str] = {}
    instructions = list(program.instructions)
    inputs = {v.name for v in program.inputs}
    for position, user in enumerate(instructions):
        if not isinstance(user, Pointwise):
            continue
        for total in user.expression.atoms(Add):
            found = _product_and_vector(total, program, inputs)
            if found:
                product, vector = found
                biases[name_of(product)] = name_of(vector)
                user = replace(user, expression=_dropped(user.expression, total, total - vector))
                instructions[position] = user
                break
    return replace(program, instructions=tuple(instructions)), biases


def _product_and_vector(total: Add, program: Program, inputs: set[str]) -> tuple[Indexed, Indexed] | None:
    reads = [name_of(e) for i in program.instructions for e in i.reads]
    entries = sorted((t for t in total.args if isinstance(t, Indexed)), key=str)
    for product in entries:
        producer = program.producers.get(name_of(product))
        linear = isinstance(producer, Contract) and [len(o.indices) for o in producer.operands] == [2, 2]
        if not linear or reads.count(name_of(product)) != 1 or name_of(product) in program.outputs:
            continue
        for vector in entries:
            if name_of(vector) in inputs and vector.indices == product.indices[-1:]:
                return product, vector
    return None


def _dropped(expression: Expr, old: Expr, new: Expr) -> Expr:
    """Replace one sum inside an expression and keep the order of everything else."""
    if expression == old:
        return new
    if not expression.has(old):
        return expression
    return expression.func(*(_dropped(a, old, new) for a in expression.args))
