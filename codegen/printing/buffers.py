"""Print a pointwise expression as a chain of in-place calls on a buffer that is not needed afterwards.

For example:

    f*v - c*u  with buffer v      v.mul_(f).addcmul_(c, u, value=-1)
    f*(y + b)  with buffer y      y.add_(b).mul_(f)
    a/sqrt(E)  with buffer E      E.rsqrt_().mul_(a)
"""

from __future__ import annotations

from collections.abc import Callable

from sympy import Add, Expr, Indexed, Mul, Pow, Rational

from codegen.ir.program import Pointwise, Program, entries, name_of
from codegen.printing.expressions import ExpressionPrinter

_ROOTS = {Rational(1, 2): ".sqrt_()", Rational(-1, 2): ".rsqrt_()"}


def buffers(program: Program, instruction: Pointwise) -> list[Indexed]:
    """Return the entries whose tensors may be overwritten: of the target's axes, computed here, and not read later."""
    position = program.instructions.index(instruction)
    later = {name_of(e) for i in program.instructions[position + 1 :] for e in i.reads} | set(program.outputs)
    made = {i.target.name for i in program.instructions}
    free = [e for e in entries(instruction.expression) if name_of(e) in made - later]
    same = [e for e in free if tuple(e.indices) == instruction.target.indices]
    return [e for e in same if instruction.expression.count(e) == 1]


def shortest_chain(expression: Expr, free: list[Indexed], printer: ExpressionPrinter) -> str | None:
    """Return the shortest chain of calls on one of the entries; None if none of them starts a chain."""
    chains = [text for text in (chain(expression, entry, printer) for entry in free) if text is not None]
    return min(chains, key=lambda text: (text.count("_("), text), default=None)


def chain(expression: Expr, entry: Indexed, printer: ExpressionPrinter) -> str | None:
    """Return the chain of calls that turns the entry's tensor into the expression; None if there is no such chain."""
    if expression == entry:
        return printer.text(entry)
    if isinstance(expression, Pow) and expression.exp in _ROOTS:
        start = chain(expression.base, entry, printer)
        return None if start is None else start + _ROOTS[expression.exp]
    if not isinstance(expression, Add | Mul):
        return None
    (inner,) = (a for a in expression.args if a.has(entry))
    others = [a for a in expression.args if a is not inner]
    start = chain(inner, entry, printer)
    if start is None:
        return None
    step: Callable[[list[Expr], ExpressionPrinter], str] = _added if isinstance(expression, Add) else _multiplied
    return start + step(others, printer)


def _multiplied(factors: list[Expr], printer: ExpressionPrinter) -> str:
    rest = Mul(*factors)
    if rest == -1:
        return ".neg_()"
    if isinstance(rest, Pow) and rest.exp == -1:
        return f".div_({printer.text(rest.base)})"
    return f".mul_({printer.text(rest)})"


def _added(terms: list[Expr], printer: ExpressionPrinter) -> str:
    text = ""
    for term in sorted(terms, key=str):
        negative = term.could_extract_minus_sign()
        positive = -term if negative else term
        pair = [f for f in Mul.make_args(positive) if isinstance(f, Indexed)]
        if len(pair) == 2 and Mul(*pair) == positive:
            narrow, wide = sorted(pair, key=lambda e: (len(e.indices), str(e)))
            value = ", value=-1" if negative else ""
            text += f".addcmul_({printer.text(narrow)}, {printer.text(wide)}{value})"
        else:
            text += f".{'sub' if negative else 'add'}_({printer.text(positive)})"
    return text
