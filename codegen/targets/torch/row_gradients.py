"""The backward pass when no graph is recorded: gradients of the parameters first, then the input's, row by row.

    u = f*x             a tensor as large as the gradient with respect to x, needed for the gradient with respect to W
    dW = g.t() @ u
    dx = mm(g, W)       into the memory of u: allocating a tensor costs more than scaling the rows again
    rows of dx          in blocks that stay in the cache, each with u of its own rows

Which lines work on rows follows from the program: all lines of dx except products with a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sympy import Expr, Indexed

from codegen.ir.program import Contract, Instruction, Program, Value, name_of
from codegen.passes.reassociate import Backward
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.torch_lines import Style, TorchPrinter, printed
from derive.errors import UsageError
from derive.forward_map import BATCH


def in_place_context(backward: Backward, style: Style) -> dict[str, Any]:
    """Return the in-place context of ``function.py.jinja``; raise ``UsageError`` if the input is not scaled first."""
    program, direction = backward.program, backward.direction
    if direction is None:
        raise UsageError(
            f"{program.name!r}: its gradients are not functions of the scaled input, which this form needs"
        )
    result, *others = program.outputs
    scaled = direction.value.name
    needed = [i for i in program.needed_for([result]) if i.target.name != scaled]
    products = [i for i in needed if _is_product(i)]
    rows = [i for i in needed if i not in products]
    (product,) = (i for i in products if len(i.target.indices) > 1)
    printer = TorchPrinter(program, style)
    text = {line.target: line.text for line in printer.lines([product.target.name])}[product.target.name]
    names = [scaled, product.target.name, *_read(rows, program, (scaled, product.target.name))]
    scalars = [str(s) for s in program.scalars]
    by_row = [_scaled_text(direction.definition, by_rows=True), f"{result}[rows]"]
    by_row += [_of_rows(program.values[n]) for n in names[2:]]
    return {
        "scaled": f"{scaled} = {_scaled_text(direction.definition)}",
        "blocks": _parameters(program, printer, others, scaled),
        "products": printed(printer.lines({i.target.name for i in products if i is not product})),
        "result": result,
        "base": product.target.name,
        "product_onto": _onto(text, scaled),
        "arguments": [*(f"{n}: Tensor" for n in names), *(f"{s}: float" for s in scalars)],
        "call": ", ".join([scaled, text, *names[2:], *scalars]),
        "call_of_rows": ", ".join([*by_row, *scalars]),
        "rows": printed(printer.lines({i.target.name for i in rows})),
    }


def _scaled_text(definition: Expr, by_rows: bool = False) -> str:
    """Return the text that scales an input, all of it or the rows ``rows``."""
    printer = ExpressionPrinter(lambda e: f"{name_of(e)}[rows]" if by_rows else name_of(e))
    return printer.text(definition)


def _is_product(instruction: Instruction) -> bool:
    """Whether an instruction is a product of a parameter, which has no rows, and a value with rows."""
    return isinstance(instruction, Contract) and any(BATCH not in o.indices for o in instruction.operands)


def _read(rows: Iterable[Instruction], program: Program, known: Iterable[str]) -> list[str]:
    """Return the names that instructions of rows read from outside, in the order of the program."""
    made = {i.target.name for i in rows} | set(known)
    read = {name_of(e) for i in rows for e in i.reads if isinstance(e, Indexed)} - made
    return [name for name in program.values if name in read]


def _of_rows(value: Value) -> str:
    return f"{value.name}[rows]" if BATCH in value.indices else value.name


def _onto(product: str, target: str) -> str:
    """Return the call that writes a matrix product into a tensor."""
    left, right = product.split(" @ ")
    return f"torch.mm({left}, {right}, out={target})"


def _parameters(program: Program, printer: TorchPrinter, outputs: list[str], scaled: str) -> list[dict[str, Any]]:
    """Return for each parameter its position and the lines of its gradient; they share only the scaled input."""
    blocks = []
    for position, output in enumerate(outputs, start=1):
        own = {i.target.name for i in program.needed_for([output])} - {scaled}
        blocks.append({"position": position, "lines": printed(printer.lines(own))})
    return blocks
