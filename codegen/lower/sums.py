"""From indexed sums to instructions: contractions of two tensors at a time, and pointwise expressions of the results.

    sum[j](f[s]*W[i,j]*x[s,j])                  a contraction, then a product: f has no summed index
    sum[j](exp(x[s,j])*W[i,j])                  first the function, as a pointwise value
    sum[i,j](g[s,i]*W[i,j]*x[s,j])              two contractions; the first may be one that another result also needs

    sum[c,k](x[s,c,p+k]**2)                     first the sum over c, which no link involves; then one over patches

Contractions are identified by their structure, so that none is emitted twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sympy import Expr, Indexed, Mul

from codegen.ir.link import Link
from codegen.ir.program import Contract, Convolve, Instruction, Pointwise, ProgramError, Value, name_of
from codegen.lower.arrange import arranged, support
from codegen.lower.links import Relations, relations
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum
from derive.errors import UsageError
from derive.forward_map import BATCH

Key = tuple[object, ...]


@dataclass
class Emitter:
    """Collects instructions; ``demanded`` are the contractions of two tensors that results need directly.

    ``space`` holds the axis lengths that links relate: positions, not features. ``taken`` are names reserved for later.
    """

    values: dict[str, Value]
    space: set[Expr] = field(default_factory=set)
    instructions: list[Instruction] = field(default_factory=list)
    demanded: set[Key] = field(default_factory=set)
    emitted: dict[Key, tuple[Value, tuple[Index, ...]]] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()

    def assign(self, target: Value, expression: Expr, equation: str = "") -> None:
        """Emit instructions so that ``target`` holds ``expression``, a normal form over values known so far."""
        if isinstance(expression, IndexedSum):
            self._sum(expression, target, equation)
            return
        scalar = self.without_sums(expression)
        features = [i for i in target.indices if i.size not in self.space]
        tidy = arranged(scalar, features or target.indices, self._narrow)
        self.append(Pointwise(target, tidy, equation))

    def demand(self, expression: Expr) -> None:
        """Record which contractions of two tensors a result needs, so that longer ones are built from them."""
        for part in expression.atoms(IndexedSum):
            factors = [f for f in Mul.make_args(part.body) if isinstance(f, Indexed)]
            if len(factors) == len(Mul.make_args(part.body)) == 2:
                self.demanded.add(_signature(factors, part.bound)[0])

    def without_sums(self, expression: Expr) -> Expr:
        """Return the expression with every sum replaced by an entry of an emitted value."""
        if isinstance(expression, IndexedSum):
            return self._sum(expression)
        if not expression.args or isinstance(expression, Indexed):
            return expression
        return expression.func(*(self.without_sums(a) for a in expression.args))

    def _sum(self, total: IndexedSum, target: Value | None = None, equation: str = "") -> Indexed:
        found = self.relations(total)
        if found.odd is not None or found.links:  # only ``lower`` handles links
            raise ProgramError(f"no instruction for {found.odd or found.links[0].delta} in {total}")
        return self.contraction(self.operands(found.factors), found.bound, target, equation)

    def relations(self, total: IndexedSum) -> Relations:
        """Return the factors of a sum and the links between its indices."""
        kernels = {i.size for v in self.values.values() if BATCH not in v.indices for i in v.indices}
        return relations(total, lambda e: tuple(i.size for i in self.values[name_of(e)].indices), kernels)

    def convolution(
        self,
        operands: list[Indexed],
        summed: Sequence[Index],
        links: Sequence[Link],
        target: Value | None = None,
        equation: str = "",
    ) -> Indexed:
        """Emit a sum over linked indices; factors are first summed over unlinked indices if that saves axes."""
        self.space |= {i.size for link in links for i in link.indices}
        linked = {i for link in links for i in link.indices}
        for index in [i for i in summed if i not in linked]:
            along = [o for o in operands if index in o.indices]
            if along and len({i for o in along for i in o.indices}) - 1 < min(len(o.indices) for o in along):
                first = self.contraction(along, [index])
                operands, summed = [*(o for o in operands if o not in along), first], [i for i in summed if i != index]
        free = {i for o in operands for i in o.indices} | linked
        value = target or Value(self.fresh(joint_name(operands)), _ordered_along(links, free - set(summed), operands))
        self.append(Convolve(value, tuple(operands), tuple(summed), tuple(links), equation))
        return value.entry

    def operands(self, factors: Iterable[Expr]) -> list[Indexed]:
        """Return the factors of a summand as tensor entries, emitting functions of entries as values."""
        operands: list[Indexed] = []
        for factor in factors:
            base, exponent = factor.as_base_exp()
            if isinstance(base, Indexed) and exponent.is_Integer and exponent > 0:
                operands += [base] * int(exponent)
                continue
            operands.append(self._as_entry(self.without_sums(factor)))
        return sorted(operands, key=lambda o: (BATCH not in o.indices, len(o.indices) < 2, name_of(o)))

    def _as_entry(self, expression: Expr) -> Indexed:
        if isinstance(expression, Indexed):
            return expression
        value = Value(self.fresh("t"), support(expression))
        self.append(Pointwise(value, expression))
        return value.entry

    def _narrow(self, expression: Expr) -> Expr:
        """Emit a product or sum of narrow values once, before it is broadcast along wider axes."""
        value = Value(self.fresh("c"), support(expression))
        self.append(Pointwise(value, expression))
        return value.entry

    def contraction(
        self, operands: list[Indexed], summed: Sequence[Index], target: Value | None = None, equation: str = ""
    ) -> Indexed:
        """Emit the sum of a product, two operands at a time, reusing emitted and demanded contractions."""
        while len(operands) > 2:
            first, second = self._best_pair(operands, summed)
            rest = [o for k, o in enumerate(operands) if k not in (first, second)]
            outside = {i for o in rest for i in o.indices}
            inner = [i for i in summed if i not in outside]
            pair = [operands[first], operands[second]]
            inner = [i for i in inner if any(i in o.indices for o in pair)]
            joined = self.contraction(pair, inner) if inner else self._as_entry(Mul(*pair))
            operands, summed = [*rest, joined], [i for i in summed if i not in inner]
        return self._pair(operands, summed, target, equation)

    def _pair(self, operands: list[Indexed], summed: Sequence[Index], target: Value | None, equation: str) -> Indexed:
        key, free = _signature(operands, summed)
        if target is None and key in self.emitted:
            value, names = self.emitted[key]
            here = dict(zip(names, free, strict=True))
            return value.at(here[i] for i in value.indices)
        if not free and target is None:
            factors = " * ".join(name_of(o) for o in operands)
            raise UsageError(
                f"the sum of all entries of {factors} is a single number, but programs have only tensors with axes; "
                "leave one axis out of this sum, such as the units"
            )
        value = target or Value(self.fresh(joint_name(operands)), _ordered(free, operands))
        self.append(Contract(value, tuple(operands), tuple(summed), equation))
        self.emitted.setdefault(key, (value, free))
        return value.entry

    def _best_pair(self, operands: list[Indexed], summed: Sequence[Index]) -> tuple[int, int]:
        """Prefer a pair that is emitted or demanded, then the smallest result, then the least work."""

        def cost(pair: tuple[int, int]) -> tuple[bool, int, int, tuple[int, int]]:
            """Return the sort key of a pair of operands: the cheapest contraction comes first."""
            both = [operands[k] for k in pair]
            axes = {i for o in both for i in o.indices}
            outside = {i for k, o in enumerate(operands) if k not in pair for i in o.indices}
            inner = [i for i in summed if i in axes - outside]
            key = _signature(both, inner)[0]
            return (key not in self.demanded and key not in self.emitted, len(axes) - len(inner), len(axes), pair)

        return min(itertools.combinations(range(len(operands)), 2), key=cost)

    def append(self, instruction: Instruction) -> None:
        """Append an instruction whose operands are known."""
        self.instructions.append(instruction)
        self.values[instruction.target.name] = instruction.target

    def renamed(self, entry: Indexed, target: Value, equation: str) -> bool:
        """Rename an emitted value that nothing reads to the target, with its equation; return whether it was possible.

        ``entry`` is the value at the target's indices; the axes of a contraction may be permuted.
        """
        read = any(name_of(e) == name_of(entry) for i in self.instructions for e in i.reads)
        if read or set(entry.indices) != set(target.indices):
            return False
        for place, instruction in enumerate(self.instructions):
            own = instruction.target.indices
            if instruction.target.name == name_of(entry):
                here = dict(zip(entry.indices, own, strict=True))
                order = tuple(here[i] for i in target.indices)
                if order != own and not isinstance(instruction, Contract):
                    return False
                named = Value(target.name, order)
                self.instructions[place] = replace(instruction, target=named, equation=equation)
                self.values[target.name] = target
                for key, (value, free) in self.emitted.items():
                    if value.name == name_of(entry):
                        self.emitted[key] = (named, free)
                return True
        return False

    def fresh(self, stem: str) -> str:
        """Return an unused name: the stem, numbered if it is taken."""
        names = itertools.chain([stem], (f"{stem}{k}" for k in itertools.count(2)))
        return next(n for n in names if n not in self.values and n not in self.taken)


def _signature(operands: Sequence[Indexed], summed: Sequence[Index]) -> tuple[Key, tuple[Index, ...]]:
    """Return a contraction's key up to names and order, and its free indices in canonical order."""
    best: tuple[Key, tuple[Index, ...]] | None = None
    for order in itertools.permutations(operands):
        seen: dict[Index, int] = {}
        shape = tuple((name_of(o), tuple(seen.setdefault(i, len(seen)) for i in o.indices)) for o in order)
        bound = tuple(sorted(seen[i] for i in summed))
        free = tuple(i for i in seen if i not in summed)
        if best is None or (shape, bound) < best[0]:
            best = ((shape, bound), free)
    assert best is not None
    return best


def _ordered(free: Iterable[Index], operands: Sequence[Indexed]) -> tuple[Index, ...]:
    """Order free indices as in the operands, the batch index first."""
    position = {i: min(o.indices.index(i) for o in operands if i in o.indices) for i in free}
    return tuple(sorted(position, key=lambda i: (i != BATCH, position[i], i.sort_key())))


def _ordered_along(links: Sequence[Link], free: set[Index], operands: Sequence[Indexed]) -> tuple[Index, ...]:
    """Order free indices as ``_ordered`` does, those of the links last and in their order."""
    linked = [i for link in links for i in link.indices if i in free]
    return (*_ordered((i for i in free if i not in linked), operands), *linked)


def joint_name(operands: Sequence[Indexed]) -> str:
    """Name a contraction after its operands: ``gW`` for g and W, ``x_gW`` for x and gW."""
    names = [name_of(o) for o in operands]
    if len(names) == 1:
        return f"{names[0]}_sum"
    joint = "".join(names) if all(len(n) == 1 for n in names) else "_".join(names)
    return joint if joint.isidentifier() else "t"
