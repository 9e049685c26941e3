"""A pointwise expression as a chain of in-place calls on a buffer that nothing else needs any more.

For example:

    f*v - c*u  with buffer v      v.mul_(f).addcmul_(c, u, value=-1)
    f*(y + b)  with buffer y      y.add_(b).mul_(f)
"""

from __future__ import annotations

from collections.abc import Callable

from sympy import Add, Expr, Indexed, Mul, Pow

from codegen.program import Pointwise, Program, entries, name_of
from codegen.targets.torch.expressions import ExpressionPrinter


def buffer(program: Program, instruction: Pointwise) -> Indexed | None:
    """Return an entry whose tensor may be overwritten: as wide as the target, made here, read for the last time."""
    position = program.instructions.index(instruction)
    later = {name_of(e) for i in program.instructions[position + 1 :] for e in i.reads} | set(program.outputs)
    made = {i.target.name for i in program.instructions}
    for entry in entries(instruction.expression):
        free = name_of(entry) in made - later and tuple(entry.indices) == instruction.target.indices
        if free and instruction.expression.count(entry) == 1:
            return entry
    return None


def chain(expression: Expr, entry: Indexed, printer: ExpressionPrinter) -> str | None:
    """Return the chain of calls that turns the entry's tensor into the expression; None if there is no such chain."""
    if expression == entry:
        return printer.text(entry)
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
