"""Programs with convolutions as lines of PyTorch, for tensors (batch, groups, channels, *space).

The text does not depend on the number of axes of space, so one file serves all. There are two styles, in place and
portable, as in ``torch_lines``. A value with one number per position is *narrow*: it is computed in float64, and
rounded when it is combined with values that vary along the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import sympy
from sympy import Add, Expr, Indexed, Symbol

from codegen.ir.program import Contract, Convolve, Instruction, Magnitude, Pointwise, Program, Value, name_of
from codegen.printing.buffers import buffers, chain
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.patch_space import Space, lengths_of, role_of
from codegen.printing.torch_lines import Line
from derive.errors import UsageError
from derive.forward_map import BATCH

_KERNEL_ENTRIES = Symbol("math.prod(geometry.kernel)", positive=True, integer=True)


class PatchPrinter:
    """Prints the instructions of one program; ``given`` are the names of its inputs that are narrow and rounded.

    ``source`` is the input of the layer, whose type results have in the portable style; without ``casts`` they have it
    already. ``whole`` is the program that this one is a part of: its convolutions show which axes are space. With
    ``guards``, a difference of narrow numbers that is only rounding error is set to zero.
    """

    def __init__(
        self,
        program: Program,
        source: str,
        in_place: bool = False,
        squares: str = "squares",
        whole: Program | None = None,
        casts: bool = True,
        guards: bool = False,
    ) -> None:
        self._program, self._source, self._in_place, self._squares = program, source, in_place, squares
        self._casts, self._guards = casts and not in_place, guards
        self._space = Space(whole or program)
        self._given = {v.name for v in program.inputs} | {
            i.target.name for i in program.instructions if isinstance(i, Magnitude)
        }
        self._biases = dict(self._foldable())

    def lines(self, names: Iterable[str] | None = None) -> list[Line]:
        """Return the lines that assign the named values (by default all)."""
        chosen = None if names is None else set(names)
        folded = {product for _, product, _ in self._biases.values()}
        return [
            self._line(i)
            for i in self._program.instructions
            if i.target.name not in folded and (chosen is None or i.target.name in chosen)
        ]

    def merged(self) -> tuple[set[str], list[str]]:
        """Return the gradients of one convolution that a single call computes, and the lines of that call.

        They are the gradients with respect to its input and its filter, and the sum over samples for a bias.
        """
        pairs = [i for i in self._program.instructions if isinstance(i, Convolve) and len(i.operands) == 2]
        by_input = [i for i in pairs if self._cotangent(i) and not self._space.is_kernel(i.target.indices)]
        if len(by_input) != 1:
            return set(), []
        (first,) = by_input
        cotangent = self._cotangent(first)
        assert cotangent is not None
        second = next(i for i in pairs if self._space.is_kernel(i.target.indices) and cotangent in i.operands)
        sums = [i for i in self._program.instructions if isinstance(i, Contract) and i.operands == (cotangent,)]
        found: list[Instruction] = [first, second, *(i for i in sums if BATCH not in i.target.indices)]
        names = [i.target.name for i in found]
        wanted = "wanted[:3]" if len(found) == 3 else "(*wanted[:2], False)"
        kernel = next(name_of(o) for o in first.operands if o != cotangent)
        turned = "" if role_of(first, first.target.indices) == "long" else ", transposed=True"
        results = ", ".join([*names, *["_"] * (3 - len(names))])
        call = f"{results} = gradients_of({name_of(cotangent)}, {self._source}, {kernel}, geometry, {wanted}{turned})"
        equations = [i.equation for i in found if i.equation]
        return set(names), [*([f"# {', '.join(equations)}"] if equations else []), call]

    def _cotangent(self, instruction: Convolve) -> Indexed | None:
        """Return the cotangent in a gradient with respect to a convolution's input or filter; None for other sums."""
        given = {v.name for v in self._program.inputs}
        made = [o for o in instruction.operands if name_of(o) not in given]
        return made[0] if len(made) == 1 else None

    def _line(self, instruction: Instruction) -> Line:
        name = instruction.target.name
        if name in self._biases:
            convolution, _, bias = self._biases[name]
            return Line(name, self._convolution(convolution, bias), instruction.equation)
        if isinstance(instruction, Pointwise):
            text = self._pointwise(instruction)
        elif isinstance(instruction, Magnitude):
            text = f"longest({name_of(instruction.operand)})"
        elif isinstance(instruction, Convolve):
            text = self._convolution(instruction)
        elif isinstance(instruction, Contract):
            text = self._contraction(instruction)
        else:
            raise UsageError(
                f"{self._program.name!r}: {name!r} is a gather, scatter or mask, which this printer does not support"
            )
        computed = not (isinstance(instruction, Convolve) and len(instruction.operands) > 1)
        casts = name in self._program.outputs and computed and self._casts
        if casts and not self._space.is_narrow(instruction.target.indices):
            text = f"{text if text.endswith(')') and text.count('(') == 1 else f'({text})'}.to({self._source}.dtype)"
        return Line(name, text, instruction.equation)

    def _pointwise(self, instruction: Pointwise) -> str:
        printer = ExpressionPrinter(self._entry_in(instruction.target), lengths_of(self._program, self._source))
        expression = self._space.counted(instruction.expression, _KERNEL_ENTRIES)
        if isinstance(expression, sympy.Piecewise):
            (value, condition), (otherwise, _) = expression.args
            name = printer.text(otherwise)
            return f"{name}.masked_fill({printer.text(condition.lhs)} == {condition.rhs}, {printer.text(value)})"
        narrow = self._space.is_narrow(instruction.target.indices)
        if narrow and self._guards and isinstance(expression, Add):
            return self._difference(expression, printer)
        free = next(iter(buffers(self._program, instruction)), None)
        if free is not None and self._in_place and BATCH in instruction.target.indices and not narrow:
            text = self._onto(expression, free, printer)
            if text is not None:
                return text
        return printer.text(expression)

    def _onto(self, expression: Expr, free: Indexed, printer: ExpressionPrinter) -> str | None:
        """Return in-place calls; a product that may leave the range is computed in other units."""
        terms = [t for t in Add.make_args(expression) if self._may_leave_range(t)]
        if len(terms) != 1:
            return chain(expression, free, printer)
        rest = expression - terms[0] - free
        if rest.has(free):
            return None
        (tensor,) = (e for e in terms[0].args if isinstance(e, Indexed) and name_of(e) == self._source)
        scale = next(v for v in self._program.inputs if self._space.is_narrow(v.indices))
        narrow = ExpressionPrinter(self._entry_in(scale)).text(terms[0] / tensor)
        more = "" if rest == 0 else f", {printer.text(rest)}"
        return f"add_product({name_of(free)}, {narrow}, {self._source}, {scale.name}{more})"

    def _may_leave_range(self, term: Expr) -> bool:
        """Whether a term is a computed number per position times an entry of the input."""
        factors = [f for f in term.args if isinstance(f, Indexed)] if isinstance(term, sympy.Mul) else []
        narrow = [f for f in factors if self._space.is_narrow(f.indices) and name_of(f) not in self._given]
        return len(factors) == 2 and len(narrow) == 1 and self._source in map(name_of, factors)

    def _difference(self, expression: Add, printer: ExpressionPrinter) -> str:
        """Print a sum of squares written as a difference, so that a mere rounding error becomes zero."""
        negative = [t for t in expression.args if t.could_extract_minus_sign()]
        if not negative:
            return printer.text(expression)
        positive = Add(*(t for t in expression.args if t not in negative))
        return f"difference({printer.text(positive)}, {printer.text(-Add(*negative))})"

    def _entry_in(self, target: Value) -> Callable[[Indexed], str]:
        """Return a function that prints entries for a target; narrow numbers stay wide if the target is narrow."""
        narrow_target = self._space.is_narrow(target.indices)

        def text(entry: Indexed) -> str:
            """Return the text of an entry."""
            name = name_of(entry)
            if self._space.is_narrow(entry.indices):
                if narrow_target:
                    saved = any(v.name == name for v in self._program.inputs)
                    return f"wide({name})" if saved else name
                return name if name in self._given else f"rounded({name}, {self._source})"
            if self._space.is_kernel(target.indices) and not self._space.is_kernel(entry.indices):
                return f"{name}.unsqueeze(2)"
            return name

        return text

    def _contraction(self, instruction: Contract) -> str:
        operands = [name_of(o) for o in instruction.operands]
        target, first = instruction.target.indices, instruction.operands[0].indices
        if self._space.is_narrow(target):
            same = len(operands) == 2 and instruction.operands[0] == instruction.operands[1]
            if same:
                return f"{self._squares}({operands[0]})"
            if len(operands) == 1:
                return f"over_channels({operands[0]})"
            if self._source in operands:  # as it is given: products with it may leave the range
                operands = [f"wide({name})" for name in operands if name != self._source] + [self._source]
            return f"inner({', '.join(operands)})"
        written = [self._entry_in(Value("t", tuple(first)))(o) for o in instruction.operands]
        if BATCH in first:
            return f"over_samples({' * '.join(written)})"
        if self._space.is_kernel(first) and len(operands) == 1:
            return f"over_kernel({operands[0]})"
        raise UsageError(f"{self._program.name!r}: the torch target has no sum for {instruction.meaning}")

    def _convolution(self, instruction: Convolve, bias: str | None = None) -> str:
        """Return the call of a convolution, its transpose, the gradient of a filter or a sum over patches."""
        role = role_of(instruction, instruction.target.indices)
        operands = {role_of(instruction, o.indices): o for o in instruction.operands}
        geometry = "geometry" if bias is None else f"geometry, bias={bias}"
        size = self._size(instruction, role)
        if role == "kernel":
            return (
                f"kernel_gradient({self._narrowed(operands['position'])}, {self._narrowed(operands['long'])}, geometry)"
            )
        if len(operands) == 1:
            ((place, operand),) = operands.items()
            function = "box" if place == "long" else "spread"
            return f"{function}({name_of(operand)}, geometry{size})"
        place = "long" if role == "position" else "position"
        function = "gather" if role == "position" else "scatter"
        tensor, kernel = self._narrowed(operands[place]), self._narrowed(operands["kernel"])
        return f"{function}({tensor}, {kernel}, {geometry.replace('geometry', f'geometry{size}', 1)})"

    def _size(self, instruction: Convolve, role: str) -> str:
        """Return the argument that gives the length of the result, if the operands do not determine it."""
        wanted = [getattr(link, role).size for link in instruction.links]
        shapes = {v.name: [i.size for i in v.indices if i.size in self._space.sizes] for v in self._program.inputs}
        known = [name for name, sizes in shapes.items() if sizes == wanted]
        if role == "long":
            return f", {known[0]}.shape[3:]" if known else f", reach({self._source}.shape[3:], geometry)"
        return f", size={self._source}.shape[3:]" if role == "position" and self._source in known else ""

    def _narrowed(self, entry: Indexed) -> str:
        name = name_of(entry)
        given = any(v.name == name for v in self._program.inputs)
        return name if given or not self._casts else f"{name}.to({self._source}.dtype)"

    def _foldable(self) -> Iterable[tuple[str, tuple[Convolve, str, str]]]:
        """Yield the sums of a convolution that nothing else reads and a bias: one call computes both."""
        reads = [name_of(e) for i in self._program.instructions for e in i.reads]
        inputs = {v.name for v in self._program.inputs}
        for user in self._program.instructions:
            if (
                not isinstance(user, Pointwise)
                or not isinstance(user.expression, Add)
                or len(user.expression.args) != 2
            ):
                continue
            names = [name_of(a) for a in user.expression.args if isinstance(a, Indexed)]
            products = [
                n for n in names if isinstance(self._program.producers.get(n), Convolve) and reads.count(n) == 1
            ]
            biases = [n for n in names if n in inputs and BATCH not in self._program.values[n].indices]
            if len(products) == 1 and len(biases) == 1 and products[0] not in self._program.outputs:
                producer = self._program.producers[products[0]]
                assert isinstance(producer, Convolve)
                yield user.target.name, (producer, products[0], biases[0])
