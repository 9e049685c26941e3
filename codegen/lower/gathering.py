"""Lower any layer to a program: gathers first, so that the rest is contractions, convolutions and pointwise values.

    x[s,c,2*p + k]*Within(2*p + k, l)      a gather, zero outside: the guard goes
    W[t[s,p],i]                            a gather at integers that are an input
    x[s,2*p]/E[s,p + 1]*Within(...)        the divisor is gathered without zeros outside, and the guard is a mask
    delta(t[s,p], t[s,q])                  a mask

Sums are then contractions of plain entries. With ``convolutions``, a sum whose positions are links stays one
convolution instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import sympy
from sympy import Expr, Indexed, Mul

from codegen.ir.program import (
    Gather,
    Instruction,
    Mask,
    Peak,
    Pointwise,
    Program,
    Value,
    gradient_name,
    name_of,
    tangent_name,
)
from codegen.lower.arrange import support
from codegen.lower.counted import counted
from codegen.lower.functions import printable
from codegen.lower.gather_layout import indices_of, placement
from codegen.lower.sums import Emitter, Key
from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index
from derive.algebra.nodes import Divides, IndexedSum, IndexTensor, Within, rename, tensor
from derive.algebra.normal import normalise
from derive.algebra.reductions import Attains, Largest, LogSumExp, Masked, Product, Softmax
from derive.errors import UsageError
from derive.forward_map import BATCH, Layer, Tensor


def lower(layer: Layer, convolutions: bool = False) -> Program:
    """Return the forward program of any layer; its inputs are the layer's inputs, then its parameters.

    Equations are named ``<layer>/define-<name>`` for definitions and ``<layer>/forward`` for the output. With
    ``convolutions``, sums over patches are lowered to convolutions instead of gathers and contractions.
    """
    inputs = tuple(_declared(t) for t in (*layer.inputs, *layer.parameters))
    definitions = (*layer.definitions, layer.output)
    taken = frozenset({d.name for d in definitions} | {str(size) for size in layer.sizes})
    taken |= {gradient_name(v.name) for v in inputs}
    emitter = GatheringEmitter({v.name: v for v in inputs}, taken=taken, convolutions=convolutions)
    for definition in definitions:
        word = "forward" if definition is layer.output else f"define-{definition.name}"
        target = Value(definition.name, definition.indices)
        form = normalise(counted(printable(definition.expression)))
        emitter.assign(target, form, f"{layer.name}/{word}")
    return Program(layer.name, inputs, layer.scalars, tuple(emitter.instructions), (layer.output.name,))


def _declared(tensor: Tensor) -> Value:
    """Return a declared tensor as a value; an input's batch axis has the batch index."""
    lead = (BATCH,) if tensor.axes[:1] == (BATCH.size,) else ()
    rest = tensor.axes[len(lead) :]
    return Value(tensor.name, (*lead, *(Index(f"_{tensor.name}_{k}", axis) for k, axis in enumerate(rest))))


@dataclass
class GatheringEmitter(Emitter):
    """An emitter of gathers and masks that emits each gather, mask and pointwise value only once."""

    placed: dict[object, Value] = field(default_factory=dict)
    convolutions: bool = False

    def fresh(self, stem: str) -> str:
        """Return an unused name that no tangent has: the stem, numbered if it is taken."""
        return super().fresh("product" if stem.endswith(tangent_name("")) else stem)

    def assign(self, target: Value, expression: Expr, equation: str = "") -> None:
        """Emit instructions so that ``target`` holds ``expression``, a normal form over values known so far."""
        if isinstance(expression, IndexedSum) and self._summed_into(target, expression, equation):
            return
        super().assign(target, self.without_sums(expression), equation)

    def without_sums(self, expression: Expr) -> Expr:
        """Return the expression with everything but plain entries replaced by entries of emitted values."""
        if isinstance(expression, Indexed):
            return self._entry(expression)
        if isinstance(expression, IndexedSum):
            convolved = self._convolved(expression)
            if convolved is not None:
                return convolved
            coefficient, operands = self._factors(expression.body)
            return coefficient * self.contraction(operands, expression.bound)
        if is_guard(expression) or expression.is_Mul:
            coefficient, operands, functions = self._split(expression)
            return Mul(coefficient, *operands, *(self.without_sums(f) for f in functions))
        if expression.is_Pow and isinstance(expression.base, Indexed) and not _natural(expression.exp):
            return self._entry(expression.base, filled=False) ** expression.exp
        if isinstance(expression, LogSumExp):
            peak, weights, bound = self._exponentials(expression)
            return peak + sympy.log(self.contraction([weights], bound))
        if isinstance(expression, Softmax):
            return self._share(expression)
        if isinstance(expression, Largest):
            return self._attained(expression)
        if isinstance(expression, Masked):
            return self._score(expression)[0]
        if isinstance(expression, Attains):
            entry, peak = (self._value(self.without_sums(a)) for a in expression.args)
            return sympy.Piecewise((1, sympy.Eq(entry, peak)), (0, True))
        if isinstance(expression, Product):
            return self._multiplied(expression)
        if not expression.args:
            return expression
        return expression.func(*(self.without_sums(a) for a in expression.args))

    def _score(self, score: Expr) -> tuple[Indexed, Expr]:
        """Return a score as an entry (minus infinity where masked), and its unmasked entry, or 1 if it has no mask."""
        if not isinstance(score, Masked):
            return self._value(self.without_sums(score)), sympy.S.One
        plain, mask = self._value(self.without_sums(score.args[0])), self._value(self.without_sums(score.args[1]))
        return self._value(sympy.Piecewise((-sympy.oo, sympy.Eq(mask, 0)), (plain, True))), plain

    def _peak(self, entry: Indexed, bound: Sequence[Index]) -> Indexed:
        left = tuple(i for i in entry.indices if i not in bound)
        if not left:
            raise UsageError(f"the largest of all entries of {name_of(entry)} is one number; keep an axis out of it")
        return self._once(("peak", entry, *bound), left, "peak", partial(Peak, operand=entry, summed=tuple(bound)))

    def _exponentials(self, whole: LogSumExp) -> tuple[Indexed, Indexed, tuple[Index, ...]]:
        """Return the largest score, the exponentials of ``score - largest``, and the indices of the scores."""
        body, bound = whole.renamed()
        score, _ = self._score(body)
        peak = self._peak(score, bound)
        return peak, self._value(sympy.exp(score - peak)), bound

    def _share(self, share: Softmax) -> Expr:
        whole, place = share.args[1], share.place
        assert isinstance(whole, LogSumExp), "a softmax without its whole"
        peak, weights, bound = self._exponentials(whole)
        total = self.contraction([weights], bound)
        if place is None:
            return self._value(sympy.exp(self._score(share.args[0])[0] - peak)) / total
        here = dict(zip(bound, place.values(), strict=True))
        return self._entry(weights.base[tuple(here.get(i, i) for i in weights.indices)]) / total

    def _attained(self, largest: Largest) -> Expr:
        """Return the mean of the entries equal to the largest, which has the right derivative."""
        body, bound = largest.renamed()
        score, plain = self._score(body)
        peak = self._peak(score, bound)
        there = self._value(sympy.Piecewise((1, sympy.Eq(score, peak)), (0, True)))
        return self.contraction([there, score if plain == 1 else plain], bound) / self.contraction([there], bound)

    def _multiplied(self, product: Product) -> Expr:
        """Return a product as the exponential of a sum of logarithms times a sign, differentiable at zeros too.

        Zeros are excluded and counted: with one zero, the product is that entry times the others; with more, the
        product and its derivative are zero.
        """
        body, bound = product.renamed()
        factor = self._value(self.without_sums(body))
        if not set(bound) <= set(factor.indices):
            raise UsageError(f"no code for a product of equal factors, {body}; write it as a power")
        zero = self._value(_where_equal(factor, sympy.S.Zero))
        zeros, only = self.contraction([zero], bound), self.contraction([zero, factor], bound)
        size = self._value(sympy.log(sympy.Abs(factor + zero)))
        negative = self._value((1 - sympy.sign(factor + zero)) / 2)
        others = sympy.exp(self.contraction([size], bound)) * sympy.cos(sympy.pi * self.contraction([negative], bound))
        none, one = (self._value(_where_equal(zeros, sympy.Integer(count))) for count in (0, 1))
        return others * (none + only * one)

    def _summed_into(self, target: Value, total: IndexedSum, equation: str) -> bool:
        """Emit a sum without a coefficient straight into a target; return whether it was emitted."""
        if self._convolved(total, target, equation) is not None:
            return True
        coefficient, operands = self._factors(total.body)
        if coefficient != 1 or {i for o in operands for i in o.indices} - set(total.bound) != set(target.indices):
            return False
        self.contraction(operands, total.bound, target, equation)
        return True

    def _convolved(self, total: IndexedSum, target: Value | None = None, equation: str = "") -> Indexed | None:
        """Emit a sum as a convolution if it is one and ``convolutions`` is set; return its entry, else None."""
        found = self.relations(total) if self.convolutions else None
        if found is None or found.odd is not None or not found.links:
            return None
        return self.convolution(self.operands(found.factors), found.bound, found.links, target, equation)

    def _factors(self, body: Expr) -> tuple[Expr, list[Indexed]]:
        """Return the coefficient of a product, and its other factors as plain entries."""
        coefficient, operands, functions = self._split(body)
        for function in functions:
            base, exponent = function.as_base_exp()
            copies = int(exponent) if _natural(exponent) else 1
            operands += [self._value(self.without_sums(base if copies > 1 else function))] * copies
        return coefficient, sorted(operands, key=lambda o: (BATCH not in o.indices, len(o.indices) < 2, name_of(o)))

    def _split(self, body: Expr) -> tuple[Expr, list[Indexed], list[Expr]]:
        """Split a product into a coefficient, plain entries (masks for guards), and functions of entries unchanged."""
        factors = Mul.make_args(body)
        coefficient, direct, functions = sympy.S.One, list[Indexed](), list[Expr]()
        guards = [f for f in factors if is_guard(f)]
        for factor in (f for f in factors if not is_guard(f)):
            base, exponent = factor.as_base_exp()
            if not factor.has(Indexed, IndexedSum):
                coefficient *= factor
            elif isinstance(base, Indexed) and _natural(exponent):
                direct += [base] * int(exponent)
            else:
                functions.append(factor)
        implied = {g for entry in direct for g in self._implied(entry)}
        operands = [self._entry(e) for e in direct]
        return coefficient, operands + self._masks([g for g in guards if g not in implied]), functions

    def _value(self, expression: Expr) -> Indexed:
        """Return an entry of a value that holds an expression of plain entries."""
        if isinstance(expression, Indexed):
            return expression
        indices = support(expression)
        return self._once(("pointwise", expression), indices, "t", partial(Pointwise, expression=expression))

    def _implied(self, entry: Indexed) -> set[Expr]:
        """Return the guards that a gather makes redundant, since it is zero outside."""
        found: set[Expr] = set()
        for position, index in zip(entry.indices, self.values[name_of(entry)].indices, strict=True):
            above, below = sympy.fraction(sympy.together(position))
            found |= {Within(position, index.size), Divides(below, above)}
        return found

    def _entry(self, entry: Indexed, filled: bool = True) -> Indexed:
        """Return a plain entry equal to an entry with arbitrary positions, by a gather if needed."""
        source = self.values[name_of(entry)]
        plain = all(isinstance(i, Index) for i in entry.indices) and len(set(entry.indices)) == len(entry.indices)
        if plain and all(i.size == own.size for i, own in zip(entry.indices, source.indices, strict=True)):
            return entry
        positions = tuple(self._position(p) for p in entry.indices)
        operand = source.at(i.fresh() for i in source.indices)
        indices = placement(positions, source.indices).indices
        integers = entry.base.values if isinstance(entry.base, IndexTensor) else None
        key = ("gather", source.name, filled, positions)
        name = f"{source.name}_at"
        made = partial(Gather, operand=operand, positions=positions, filled=filled)
        return self._once(key, indices, name, made, integers)

    def _position(self, position: Expr) -> Expr:
        """Return an index expression whose integer entries are plain; guards that the entry implies are dropped."""
        terms = []
        for term in sympy.Add.make_args(sympy.expand(position)):
            read = [f for f in Mul.make_args(term) if isinstance(f, Indexed)]
            implied = {g for entry in read for g in self._implied(entry)}
            plain = (self._entry(f) if isinstance(f, Indexed) else f for f in Mul.make_args(term) if f not in implied)
            terms.append(Mul(*plain))
        found = sympy.Add(*terms)
        if any(is_guard(part) for part in sympy.preorder_traversal(found)):
            raise UsageError(f"no code for a condition inside the index {position}; gather in a definition of its own")
        return found

    def _masks(self, guards: Sequence[Expr]) -> list[Indexed]:
        """Return masks for guards, one for all that vary along the same indices."""
        groups: dict[tuple[Index, ...], list[Expr]] = {}
        for guard in guards:
            plain = guard.func(*(self._position(a) for a in guard.args))
            groups.setdefault(indices_of((plain,)) or (BATCH,), []).append(plain)
        masks = []
        for indices, group in groups.items():
            key = ("mask", tuple(sorted(group, key=str)))
            masks.append(self._once(key, indices, "mask", partial(Mask, guards=tuple(group))))
        return masks

    def _once(
        self,
        key: Key,
        indices: tuple[Index, ...],
        name: str,
        make: Callable[[Value], Instruction],
        integers: Expr | None = None,
    ) -> Indexed:
        """Emit an instruction unless an equal one, up to index names, exists; return its entry."""
        numbers = {index: Index("_", index.size, -1 - k) for k, index in enumerate(indices)}
        shape = tuple(_renamed(part, numbers) for part in key)
        if shape not in self.placed:
            target = Value(self.fresh(name), indices)
            self.append(make(target))
            self.placed[shape] = target
        base = tensor(self.placed[shape].name, values=integers)
        return base[indices]


def _where_equal(entry: Expr, value: Expr) -> Expr:
    return sympy.Piecewise((1, sympy.Eq(entry, value)), (0, True))


def _renamed(part: object, numbers: dict[Index, Index]) -> object:
    if isinstance(part, tuple):
        return tuple(_renamed(p, numbers) for p in part)
    return rename(part, numbers) if isinstance(part, Expr) else part


def _natural(exponent: Expr) -> bool:
    return bool(exponent.is_Integer and exponent > 0)
