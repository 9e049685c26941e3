"""Programs with convolutions as lines of JAX, for arrays (batch, groups, channels, *space).

The text does not depend on the number of axes of space, so one file serves all. One number per position is an array
with one channel, which broadcasts along channels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import sympy
from sympy import Expr, Indexed, Symbol

from codegen.ir.program import Contract, Convolve, Instruction, Pointwise, Program, name_of
from codegen.passes.accumulation import Types
from codegen.printing.patch_space import Space, lengths_of, role_of
from codegen.targets.jax.printer import WORDS, JaxExpressions, JaxPrinter
from derive.errors import UsageError
from derive.forward_map import BATCH

_ENTRIES = Symbol("patches.entries(geometry)", positive=True, integer=True)
GEOMETRY = frozenset({"geometry", "patches"})


class PatchPrinter(JaxPrinter):
    """Prints one program of a map of a convolution; see ``JaxPrinter``.

    ``source`` is the layer's input, whose shape determines the lengths of results.
    """

    def __init__(
        self,
        program: Program,
        types: Types,
        own: Iterable[str],
        source: str,
        tangents: Iterable[str] = (),
        kept: Iterable[str] = (),
        result: str = "",
    ) -> None:
        super().__init__(program, {}, types, own, tangents, kept, result)
        assert not (WORDS | GEOMETRY) & program.values.keys()
        self._space, self._source = Space(program), source

    def lines(self) -> list[str]:
        """Return the lines that assign every value in use, in order; each names the equation that it implements."""
        found: list[str] = []
        read = set(self._program.outputs)
        for line in reversed(super().lines()):
            target, _, text = line.partition(" = ")
            if target in read:
                found.append(line)
                read |= set(re.findall(r"[A-Za-z_]\w*", text.partition("  # ")[0]))
        return found[::-1]

    def _contraction(self, instruction: Contract) -> str:
        first = instruction.operands[0].indices
        computed_wide = instruction.target.name in self._computed_wide
        operands = [self._operand(o) if computed_wide else name_of(o) for o in instruction.operands]
        if BATCH in instruction.target.indices:
            function = "over_channels"
        elif BATCH in first:
            function = "over_samples"
        elif self._space.is_kernel(first) and len(operands) == 1:
            function = "over_kernel"
        else:
            raise UsageError(f"{self._program.name!r}: the jax target has no sum for {instruction.meaning}")
        return f"patches.{function}({' * '.join(operands)})"

    def _pointwise(self, instruction: Pointwise) -> str:
        computed_wide = instruction.target.name in self._computed_wide
        squares = self._sum_of_squares_less_mean(instruction)
        if squares is not None:
            return squares

        def entry(found: Indexed) -> str:
            """Return a tensor shaped to broadcast, wide if the arithmetic is wide."""
            name = name_of(found)
            text = self._widened(name) if computed_wide else name
            apart = self._space.is_kernel(instruction.target.indices) and not self._space.is_kernel(found.indices)
            return f"{text}[:, :, None]" if apart else text

        return JaxExpressions(entry, lengths_of(self._program, self._source)).text(
            self._space.counted(instruction.expression, _ENTRIES)
        )

    def _sum_of_squares_less_mean(self, instruction: Pointwise) -> str | None:
        """Return the call for ``Q - N*m**2`` (Q the sum of squares of a patch's N numbers, m their mean), or None."""
        made = self._program.producers
        found = instruction.expression
        if not isinstance(found, sympy.Add) or len(found.args) != 2:
            return None
        squares = [e for e in found.args if isinstance(e, Indexed)]
        means = [e for a in found.args if a not in squares for e in a.atoms(Indexed)]
        if len(squares) != 1 or len(means) != 1:
            return None
        (total,), (mean,) = squares, means
        count = sympy.cancel(-(found - total) / mean**2)
        boxes = [made.get(name_of(total)), self._numerator(mean, count)]
        sums = [made.get(name_of(b.operands[0])) for b in boxes if isinstance(b, Convolve) and len(b.operands) == 1]
        if [[name_of(o) for o in s.operands] for s in sums if isinstance(s, Contract)] != [
            [self._source] * 2,
            [self._source],
        ]:
            return None
        return f"patches.deviations({self._widened(self._source)}, {self._widened(name_of(mean))}, geometry)"

    def _numerator(self, mean: Indexed, count: Expr) -> Instruction | None:
        """Return the instruction that computes ``mean * count``, or None if ``mean`` is not such a quotient."""
        producer = self._program.producers.get(name_of(mean))
        if not isinstance(producer, Pointwise):
            return None
        rest = [e for e in producer.expression.atoms(Indexed)]
        if len(rest) != 1 or sympy.cancel(producer.expression * count - rest[0]) != 0:
            return None
        return self._program.producers.get(name_of(rest[0]))

    def _convolution(self, instruction: Convolve) -> str:
        """Return the call of a convolution, its transpose, the gradient of a filter or a sum over patches."""
        role = role_of(instruction, instruction.target.indices)
        operands = {role_of(instruction, o.indices): o for o in instruction.operands}
        computed_wide = instruction.target.name in self._computed_wide
        texts = {place: self._operand(o) if computed_wide else name_of(o) for place, o in operands.items()}
        if role == "kernel":
            return f"patches.kernel_gradient({texts['position']}, {texts['long']}, geometry)"
        size = self._extent(instruction, role)
        if len(operands) == 1:
            ((place, text),) = texts.items()
            return f"patches.{'box' if place == 'long' else 'spread'}({text}, geometry, {size})"
        function, place = ("gather", "long") if role == "position" else ("scatter", "position")
        return f"patches.{function}({texts[place]}, {texts['kernel']}, geometry, {size})"

    def _extent(self, instruction: Convolve, role: str) -> str:
        """Return the lengths of the result: the input's, or the output's, which follow from the input's."""
        wanted = [getattr(link, role).size for link in instruction.links]
        source = next(v for v in self._program.inputs if v.name == self._source)
        if [i.size for i in source.indices if i.size in self._space.sizes] == wanted:
            return f"{self._source}.shape[3:]"
        return f"patches.{'positions_of' if role == 'position' else 'reach'}({self._source}.shape[3:], geometry)"
