"""Derivations of long forward maps: backpropagation through named intermediates.

Multiplied out, a derivative has one term for every path from the output to a parameter, and the kernel one for every
pair of paths: hundreds for attention or a mixer. Here the chain rule runs backwards once,

    J_v[o; a] = sum over the w that use v, sum[b](J_w[o; b] dw[b]/dv[a])        dz[o]/dW[a] likewise

and each ``J_v``, the derivative of the output with respect to the intermediate ``v``, becomes an intermediate of the
result. Deltas that all terms of ``J_v`` share (for instance over batch and heads) are factored out, so that no axis
appears twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Pow

from derive.algebra.differentiate import differentiate
from derive.algebra.eliminate import free_indices
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, rename
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.algebra.reductions import Stopped
from derive.backward_pass import free_letters
from derive.deriver import Deriver
from derive.forward_map import Definition, Layer, LayerError, Tensor
from derive.kernel_forms import strip_unit_deltas
from derive.record import SelfFactor, Step

MOST_PATHS = 8
MOST_LINKS = 3
_SHORT = 6  # a slope of at most so many operations is written out instead of named


def is_long(layer: Layer) -> bool:
    """Return whether a layer has too many paths, or too long a path, for a derivation that writes them all out."""
    return paths(layer) > MOST_PATHS or depth(layer) > MOST_LINKS


def depth(layer: Layer) -> int:
    """Return how many intermediates the longest path from the output to a parameter passes through."""
    depths: dict[IndexedBase, int] = {p.base: 0 for p in layer.parameters}
    for definition in layer.definitions:
        below = [depths[b] for b in _moving(definition.expression) if b in depths]
        if below:
            depths[definition.base] = 1 + max(below)
    return max((depths[b] for b in _moving(layer.output.expression) if b in depths), default=0)


def _moving(expression: Expr) -> set[IndexedBase]:
    """Return the tensors of an expression, except those inside ``stop_gradient``."""
    if isinstance(expression, Indexed):
        return {expression.base}
    if isinstance(expression, Stopped):
        return set()
    return set().union(*(_moving(part) for part in expression.args if isinstance(part, Expr)))


def paths(layer: Layer) -> int:
    """Return how many paths lead from the output through intermediates to parameters."""
    counts: dict[IndexedBase, int] = {p.base: 1 for p in layer.parameters}

    def count(expression: Expr) -> int:
        """Return how many paths lead from an expression to parameters."""
        if isinstance(expression, Indexed):
            return counts.get(expression.base, 0)
        if isinstance(expression, Stopped):
            return 0
        return sum(count(part) for part in expression.args if isinstance(part, Expr))

    for definition in layer.definitions:
        counts[definition.base] = count(definition.expression)
    return count(layer.output.expression)


@dataclass(frozen=True)
class Slope:
    """``J_v``: an expression at the output's indices and at ``indices`` of v, times deltas that pair the two.

    ``definition`` names the expression, unless it is short.
    """

    indices: tuple[Index, ...]
    pairs: tuple[tuple[Index, Index], ...]
    expression: Expr
    definition: Definition | None = None

    def at(self, indices: Sequence[Expr]) -> Expr:
        """Return the slope at given indices of v."""
        places = dict(zip(self.indices, indices, strict=True))
        deltas = Mul(*(KroneckerDelta(mine, places[theirs]) for mine, theirs in self.pairs))
        body = self.expression if self.definition is None else self.definition.entry
        return deltas * rename(body, places)


@dataclass
class Chain:
    """The chain rule run backwards through a layer: the slope with respect to each intermediate, found once."""

    layer: Layer
    slopes: dict[IndexedBase, Slope] = field(default_factory=dict)
    waiting: dict[IndexedBase, list[Expr]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Run through the intermediates, last one first."""
        scope = self.layer.parametric_scope
        self._pass_on(self.layer.output, None)
        for base in reversed(scope):
            definition = scope[base]
            total = normalise(Add(*self.waiting.pop(base, [])))
            if total != 0:
                self.slopes[base] = self._named(definition, total)
                self._pass_on(definition, self.slopes[base])

    @cached_property
    def letters(self) -> list[str]:
        """Index names for the intermediates in slopes."""
        return free_letters(self.layer)

    def indices_of(self, sizes: Sequence[Expr]) -> tuple[Index, ...]:
        """Return one index for each axis, with names that nothing in the layer has."""
        return tuple(Index(letter, size) for letter, size in zip(self.letters, sizes, strict=False))

    def _pass_on(self, definition: Definition, slope: Slope | None) -> None:
        """Add the contribution of a definition to the slopes of the intermediates that it mentions."""
        for base in sorted(definition.expression.atoms(IndexedBase) & set(self.layer.parametric_scope), key=str):
            indices = self.indices_of([i.size for i in self.layer.parametric_scope[base].indices])
            self.waiting.setdefault(base, []).append(self.through(definition, slope, base[indices]))

    def through(self, definition: Definition, slope: Slope | None, variable: Expr) -> Expr:
        """Return what one definition contributes to the slope with respect to a variable.

        ``slope`` is that of the definition; None stands for the output itself.
        """
        if slope is None:
            return normalise(differentiate(definition.expression, variable, {}))
        own = tuple(i.fresh() for i in definition.indices)
        direct = differentiate(definition.at(own), variable, {})
        return normalise(IndexedSum(slope.at(own) * direct, *own))

    def by(self, variable: Indexed) -> Expr:
        """Return the slope of the output with respect to a parameter entry."""
        users = [(self.layer.output, None), *((self.layer.parametric_scope[b], s) for b, s in self.slopes.items())]
        return normalise(
            Add(*(self.through(d, s, variable) for d, s in users if variable.base in d.expression.atoms(IndexedBase)))
        )

    def _named(self, definition: Definition, total: Expr) -> Slope:
        """Return a slope with its common deltas factored out, under a name unless it is short."""
        indices = self.indices_of([i.size for i in definition.indices])
        pairs, rest = _without_common_deltas(total, self.layer.output.indices, indices)
        if rest.count_ops() <= _SHORT and not rest.atoms(IndexedSum):
            return Slope(indices, pairs, rest)
        free = free_indices(rest)
        own = tuple(i for i in (*self.layer.output.indices, *indices) if i in free)
        return Slope(indices, pairs, rest, Definition(self._name(definition.name), own or (Index("o", 1),), rest))

    def _name(self, name: str) -> str:
        layer = self.layer
        used = {t.name for t in (*layer.inputs, *layer.parameters)} | {
            d.name for d in (*layer.definitions, layer.output)
        }
        return next(n for n in (f"J_{name}", f"J_{name}_z", f"JJ_{name}") if n not in used)

    @cached_property
    def named(self) -> tuple[tuple[str, Definition], ...]:
        """The named slopes in order of use, each with the intermediate that it is taken with respect to."""
        return tuple((str(b.label), s.definition) for b, s in self.slopes.items() if s.definition is not None)


def _without_common_deltas(
    total: Expr, mine: Sequence[Index], theirs: Sequence[Index]
) -> tuple[tuple[tuple[Index, Index], ...], Expr]:
    """Split an expression into the deltas of two indices that all its terms have, and the rest."""
    terms = [set(Mul.make_args(term)) for term in Add.make_args(total)]
    common = set.intersection(*terms)
    pairs: list[tuple[Index, Index]] = []
    for a in mine:
        for b in theirs:
            if KroneckerDelta(a, b) in common and all(b is not other for _, other in pairs):
                pairs.append((a, b))
    deltas = {KroneckerDelta(*pair) for pair in pairs}
    rest = Add(*(Mul(*(f for f in Mul.make_args(term) if f not in deltas)) for term in Add.make_args(total)))
    return tuple(pairs), rename(rest, {b: a for a, b in pairs})


@dataclass(frozen=True)
class ChainedDeriver(Deriver):
    """The derivation of a layer through named slopes, which ``layer`` holds among its intermediates."""

    original: Layer
    chain: Chain = field(compare=False, hash=False)

    @classmethod
    def of(cls, layer: Layer) -> ChainedDeriver:
        """Return the deriver of a layer."""
        chain = Chain(layer)
        whole = replace(layer, definitions=(*layer.definitions, *(d for _, d in chain.named)))
        return cls(whole, layer, chain)

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters that the output depends on."""
        users = [self.output.expression, *(self.original.scope[b].expression for b in self.chain.slopes)]
        mentioned = {base for user in users for base in user.atoms(IndexedBase)}
        used = tuple(p for p in self.original.parameters if p.base in mentioned)
        if not used:
            raise LayerError(f"layer {self.layer.name!r} depends on no parameter: there is no update to derive")
        return used

    @cached_property
    def gradients(self) -> dict[str, Expr]:
        """``dz[s, i] / dW[a, b]`` for each parameter, in terms of the named slopes."""
        return {name: self.chain.by(entry) for name, entry in self.entries.items()}

    @cached_property
    def units(self) -> tuple[Index, ...]:
        """Output indices that by themselves index a parameter, here or through intermediates."""
        places: dict[IndexedBase, set[int]] = {p.base: set(range(len(p.axes))) for p in self.parameters}

        def plain(definition: Definition) -> set[int]:
            """Return which axes of a definition index a tensor with known unit axes by themselves."""
            entries = [e for e in definition.expression.atoms(Indexed) if e.base in places]
            used = {e.indices[k] for e in entries for k in places[e.base]}
            return {k for k, index in enumerate(definition.indices) if index in used}

        for definition in self.original.definitions:
            found = plain(definition)
            if found:
                places[definition.base] = found
        output = self.output
        return tuple(output.indices[k] for k in sorted(plain(output)))

    @cached_property
    def order_in_eta(self) -> int | None:
        """The highest power of eta in the change of the activation; None when it is no polynomial."""
        degrees: dict[IndexedBase, int | None] = {p.base: 1 for p in self.parameters}
        for definition in self.original.definitions:
            degrees[definition.base] = _degree(definition.expression, degrees)
        return _degree(self.output.expression, degrees)

    @cached_property
    def cross_terms(self) -> Expr:
        """How one sample's gradient moves another sample: the scalar before the unit deltas, or the whole kernel."""
        stripped = strip_unit_deltas(self.unfactored_kernel, self.pairs)
        return presentable(self.unfactored_kernel if stripped is None else stripped, {})

    def classify(self) -> SelfFactor:
        """Return the self factor and its shape: isotropic, diagonal or full."""
        entry = self.self_factor_entry
        diagonal = strip_unit_deltas(entry, self.pairs)
        shape = "full"
        if diagonal is not None:
            shape = "diagonal" if diagonal.free_symbols & set(self.units) else "isotropic"
            entry = diagonal
        moving = {p.base for p in self.layer.parameters} | set(self.layer.parametric_scope)
        return SelfFactor(presentable(entry, {}), shape, not (entry.atoms(IndexedBase) & moving))

    def forward_steps(self) -> list[Step]:
        """The forward map, then the slopes of the output with respect to its intermediates, last one first."""
        plain = ChainedDeriver(self.original, self.original, self.chain)
        steps = [*super(ChainedDeriver, plain).forward_steps()]
        for name, definition in self.chain.named:
            rule = f"the slope of the output with respect to `{name}`: the chain rule through all that uses it"
            entry = definition.entry
            steps.append(self.step(f"slope-{name}", rule, entry, entry, definition.expression))
        return steps

    def law_steps(self, factor: SelfFactor) -> list[Step]:
        """None: the general law is stated only for maps that are short enough to be written out."""
        return []

    @property
    def shown(self) -> Mapping[IndexedBase, Definition]:
        """None: long expressions have names already, those of the slopes."""
        return {}

    @property
    def moved(self) -> tuple[Definition, ...]:
        """The intermediates of the forward map and the output, which the step moves; slopes keep the old values."""
        return (*self.original.definitions, self.output)


def _degree(expression: Expr, degrees: Mapping[IndexedBase, int | None]) -> int | None:
    """Return the degree of an expression as a polynomial in the parameters; None when it is no polynomial."""
    if isinstance(expression, Indexed):
        return degrees.get(expression.base, 0)
    if not any(degrees.get(base, 0) != 0 for base in expression.atoms(IndexedBase)):
        return 0
    if isinstance(expression, Add | Mul | IndexedSum):
        parts = list(_parts(expression, degrees))
        if None in parts:
            return None
        known = [p for p in parts if p is not None]
        return sum(known) if expression.is_Mul else max(known)
    if isinstance(expression, Pow) and expression.exp.is_Integer and expression.exp > 0:
        base = _degree(expression.base, degrees)
        return None if base is None else base * int(expression.exp)
    return None


def _parts(expression: Expr, degrees: Mapping[IndexedBase, int | None]) -> Iterator[int | None]:
    for part in [expression.body] if isinstance(expression, IndexedSum) else expression.args:
        yield _degree(part, degrees)
