"""The plan of the member of the affine family at an angle t(r), independent of the target.

    z = f W x + h b         f = sqrt(kappa) sin(t)/r,  h = sqrt(kappa) cos(t),  r = |x|
    u = x/rho               the input scaled: its products never overflow

With ``rho = sqrt(1 + r**2)`` where f and h are smooth in r**2, else ``rho = r``. Gradients are written in u and in
scalars of the row that stay bounded:

    p = f rho        a = 2 rho**2 df/dE        c = 2 rho dh/dE        E = r**2

so that only one number per row, r, is saved. Near r = 0 a scalar is computed by its power series, in r**2 if all are
smooth, else in r. Without such a series its value at r = 0 is its limit if that is finite, else 0: a zero row has no
direction, and then no weight part.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Indexed, Symbol

from codegen.ir.program import Program, ProgramError, Value, name_of, tangent_name
from codegen.lower.sums import Emitter
from codegen.passes.power_series import Series, expanded, root, simplified, slope, times, waves
from codegen.passes.value_at_zero import limit_at_zero
from codegen.plans.digest import digest
from derive.algebra.differentiate import differentiate
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, rename, tensor
from derive.algebra.normal import normalise
from derive.cancel import solve
from derive.errors import UsageError
from derive.family import split_by_parameter
from derive.forward_map import BATCH, Definition, Layer
from derive.properties import energy_symbol
from derive.record import CancellingMap

NAME = "angle-like"
TERMS = 5  # of a power series; the last one bounds the range of the others
SCALARS = ("f", "h", "p", "a", "c")
_COARSE = 2.0**-23  # the precision of float32

radius = Symbol("r", positive=True)
turn = Symbol("t", real=True)
turning = Symbol("t_r", real=True)


@dataclass(frozen=True)
class Scalar:
    """A function of the length of a row at kappa = 1: its formula in ``r``, the angle ``t`` and its slope ``t_r``.

    ``series`` holds its coefficients at zero, the last one for the error only; a single one is the value at zero.
    """

    name: str
    formula: Expr
    series: tuple[Expr, ...]


@dataclass(frozen=True)
class AnglePlan:
    """Everything a target prints for the map at one angle; programs read the scalars as columns.

    Series are in ``r**power``; ``power`` is 2 if all scalars are smooth, and decides which ``rho`` is used. Programs
    read 1/rho as ``shrink`` to compute ``u``. All scalars are multiplied by ``root``, a function of kappa.
    """

    name: str
    kind: str
    layer: Layer
    angle: Expr
    angle_slope: Expr
    power: int
    root: Expr
    scalars: tuple[Scalar, ...]
    forward: Program
    forward_scaled: Program
    backward: Program
    tangent: Program
    kappa: Expr
    kappa_default: Expr
    kappa_above: Expr
    weight_deviation: Expr
    digest: str

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs and parameters of the map, in order."""
        return tuple(t.name for t in (*self.layer.inputs, *self.layer.parameters))

    @property
    def saved_names(self) -> tuple[str, ...]:
        """The inputs and parameters that the backward and tangent programs read, in order."""
        read = {v.name for v in (*self.backward.inputs, *self.tangent.inputs)}
        return tuple(name for name in self.input_names if name in read)


def angle_plan(solution: CancellingMap) -> AnglePlan:
    """Return the plan of the affine layer's map at an angle; raise ``UsageError`` if a limit is not known."""
    if solution.angle is None:
        raise UsageError(f"map {solution.mapped.name!r} has no angle")
    layer = solution.mapped
    angle = solution.angle
    root_of_kappa, f, h = _by_length(solution)
    power, scalars = _scalars(f, h, angle)
    ansatz = _Ansatz(solution)
    return AnglePlan(
        name=NAME,
        kind=solution.kind,
        layer=layer,
        angle=angle,
        angle_slope=_slope(angle),
        power=power,
        root=root_of_kappa,
        scalars=scalars,
        forward=ansatz.forward(),
        forward_scaled=ansatz.forward_scaled(),
        backward=ansatz.backward(),
        tangent=ansatz.tangent(),
        kappa=solution.kappa,
        kappa_default=solution.kappa_default,
        kappa_above=sympy.S.Zero,
        weight_deviation=_deviation(solution),
        digest=digest(layer),
    )


def _slope(angle: Expr) -> Expr:
    """Return the derivative of the angle, simplified unless that introduces other functions."""
    plain = sympy.diff(angle, radius)
    short = sympy.simplify(plain)
    kinds = {type(f) for f in plain.atoms(sympy.Function)}
    return short if {type(f) for f in short.atoms(sympy.Function)} <= kinds else plain


def _deviation(solution: CancellingMap) -> Expr:
    """Return the weights' standard deviation; if it depends on n too, the bound for the whole family."""
    known = solution.weight_scale.free_symbols <= {solution.kappa}
    return sympy.Abs(solution.weight_scale) if known else 1 / sympy.sqrt(solution.kappa)


def scaled_length(power: int) -> Expr:
    """Return ``rho`` for scalars with series in ``r**power``: sqrt(1 + r**2) for the power 2, else r."""
    return sympy.sqrt(radius**2 + 1) if power == 2 else radius


def _scalars(f: Expr, h: Expr, angle: Expr) -> tuple[int, tuple[Scalar, ...]]:
    """Return the power of r in the scalars' series, and each scalar with its series."""
    turns = expanded(angle, radius, 2 * TERMS + 4)
    flat = turns is not None and sympy.sin(turns[0]) == 0
    smooth = turns is not None and flat and not any(turns[2::2])
    power = 2 if smooth else 1
    rho = sympy.sqrt(sympy.expand(scaled_length(power) ** 2 / radius**2))  # rho/r
    formulas = (
        f,
        h,
        sympy.expand(f * radius) * rho,
        sympy.expand(radius * _total(f)) * rho**2,
        _total(h) * rho,
    )
    if turns is not None and flat:
        series = _series(turns, smooth)
        if all(_reaches(s, e.xreplace(_turned(angle)), power) for s, e in zip(series, formulas, strict=True)):
            return power, tuple(Scalar(*found) for found in zip(SCALARS, formulas, series, strict=True))
    rough = (f, h, f * radius, sympy.expand(radius * _total(f)), _total(h))
    series = tuple((_at_zero(e, angle),) for e in (f, h)) + ((sympy.S.Zero,),) * 3
    return 1, tuple(Scalar(*found) for found in zip(SCALARS, map(sympy.expand, rough), series, strict=True))


def _by_length(solution: CancellingMap) -> tuple[Expr, Expr, Expr]:
    """Return the common factor of f and h, a function of kappa, and the rest of each in the length and a free angle."""
    weight, offset = (p.name for p in solution.layer.parameters)
    opened = dict(solve(solution.layer, turn)["angle"].scales)
    assert solution.angle is not None
    angle = solution.angle.xreplace({radius: sympy.sqrt(energy_symbol)})
    for name, scale in solution.scales:
        if opened[name].xreplace({turn: angle}) != scale:
            raise ProgramError(f"map {solution.mapped.name!r}: the scale of {name} is not a function of a free angle")
    f, h = (sympy.powdenest(opened[name].xreplace({energy_symbol: radius**2}), force=True) for name in (weight, offset))
    (shared, f), (also, h) = (e.as_independent(radius, turn) for e in (f, h))
    if shared != also:
        raise ProgramError(f"map {solution.mapped.name!r}: kappa scales the weight by {shared}, the offset by {also}")
    return shared, f, h


def _turned(angle: Expr) -> dict[Expr, Expr]:
    return {turn: angle, turning: sympy.diff(angle, radius)}


def _reaches(series: tuple[Expr, ...], formula: Expr, power: int) -> bool:
    """Check a series against its formula at the largest r where float32 uses it, with a number for other symbols."""
    at = {s: sympy.Rational(3, 2) for e in (formula, *series) for s in e.free_symbols if s != radius}
    numbers = [float(c.subs(at)) for c in series]
    if not any(numbers):
        return bool(sympy.simplify(formula) == 0)
    first = next(abs(c) for c in numbers if c)
    ratios = [(first / abs(c)) ** (1 / k) for k, c in enumerate(numbers) if k and c]
    variable = sympy.Float(0.5 * min([1.0, *ratios]) * _COARSE ** (1 / (len(series) - 1)), 40)
    total = sum(sympy.Rational(c) * variable**k for k, c in enumerate(numbers[:-1]))
    exact = sympy.N(formula.subs(at).subs(radius, variable ** sympy.Rational(1, power)), 30)
    return bool(abs(exact - total) < 4 * _COARSE * max(abs(total), first))


def _total(formula: Expr) -> Expr:
    """Return the total derivative with respect to the length, including that of the angle."""
    return sympy.diff(formula, radius) + turning * sympy.diff(formula, turn)


def _at_zero(formula: Expr, angle: Expr) -> Expr:
    """Return the limit of a scalar at length zero if it is finite, else 0."""
    limit = limit_at_zero(formula.xreplace({turn: angle}), radius)
    return limit if limit.is_finite else sympy.S.Zero


def _series(turns: Series, smooth: bool) -> tuple[tuple[Expr, ...], ...]:
    """Return the power series of f, h, p, a and c: in r**2 if they are smooth, else in r."""
    sign, tau = sympy.cos(turns[0]), turns[1 :: 2 if smooth else 1][: TERMS + 1]
    sine, cosine = waves(tau, 2 if smooth else 1)
    f, h = [sign * c for c in sine], [sign * c for c in cosine]
    if smooth:  # rho = sqrt(1 + r**2), and the series' variable is E itself
        rho = root(len(f))
        a = [2 * c for c in times(slope(f), times(rho, rho))]
        c = [2 * c for c in times(slope(h), rho)]
        found = (f, h, times(f, rho), a, c)
    else:  # rho = r, and 2 r d/dE = d/dr
        found = (f, h, [sympy.S.Zero, *f], [sympy.S.Zero, *slope(f)], slope(h))
    return tuple(simplified(series[:TERMS]) for series in found)


class _Ansatz:
    """The map with its scalars as free symbols, and its derivatives in the scaled input and the bounded scalars."""

    def __init__(self, solution: CancellingMap) -> None:
        layer = solution.layer
        self._name = solution.mapped.name
        self._kappa = solution.kappa
        (source,) = layer.inputs
        weight, offset = layer.parameters
        rows = (BATCH,)
        self._f, self._h, self._p, self._a, self._c, self._rho, self._shrink = (
            tensor(n)[rows] for n in (*SCALARS, "rho", "shrink")
        )
        self._slopes = tensor("f_E")[rows], tensor("h_E")[rows]
        parts = split_by_parameter(layer)
        self._output = Value(layer.output.name, layer.output.indices)
        self._z = self._f * parts[weight.name] + self._h * parts[offset.name]
        energy = Definition("E", rows, solution.mapped.definitions[0].expression)
        self._scope = {
            d.base: d
            for d in (
                energy,
                Definition("f", rows, self._slopes[0] * energy.entry),
                Definition("h", rows, self._slopes[1] * energy.entry),
            )
        }
        self._inputs = [_declared(t.name, t.axes) for t in (source, weight, offset)]
        self._u = Value("u", self._inputs[0].indices)

    def forward(self) -> Program:
        """Return the output from the input and the scalars f and h."""
        emitter = self._emitter([])
        emitter.assign(self._output, normalise(self._z), f"{self._name}/forward")
        return self._program("output", emitter, (self._output.name,))

    def forward_scaled(self) -> Program:
        """Return the output from the scaled input and the scalars p and h."""
        emitter = self._emitter([])
        self._scale(emitter)
        emitter.assign(self._output, self._scaled(self._z), f"{self._name}/forward")
        return self._program("output-scaled-input", emitter, (self._output.name,))

    def backward(self) -> Program:
        """Return the gradients from the output's cotangent ``g``."""
        cotangent = Value("g", self._output.indices)
        emitter = self._emitter([cotangent])
        self._scale(emitter)
        gradients = {}
        for value in self._inputs:
            primes = {i: i.primed() for i in self._output.indices}
            entry = value.at(primes.get(i, i) if i == BATCH else i for i in value.indices)
            back = IndexedSum(cotangent.entry * differentiate(self._z, entry, self._scope), *self._output.indices)
            moved = rename(self._scaled(back), {BATCH.primed(): BATCH})
            gradients[Value(f"d{value.name}", value.indices)] = normalise(moved)
        for expression in gradients.values():
            emitter.demand(expression)
        for target, expression in gradients.items():
            emitter.assign(target, expression, f"{self._name}/backward-{target.name}")
        return self._program("backward", emitter, tuple(t.name for t in gradients))

    def tangent(self) -> Program:
        """Return the tangent of the output from the tangents of inputs and parameters."""
        tangents = [Value(tangent_name(v.name), v.indices) for v in self._inputs]
        emitter = self._emitter(tangents)
        self._scale(emitter)
        terms = []
        for value, moved in zip(self._inputs, tangents, strict=True):
            fresh = {i: i.fresh() for i in value.indices}
            entry, speed = (v.at(fresh[i] for i in v.indices) for v in (value, moved))
            terms.append(IndexedSum(differentiate(self._z, entry, self._scope) * speed, *fresh.values()))
        target = Value(tangent_name(self._output.name), self._output.indices)
        emitter.assign(target, self._scaled(Add(*terms)), f"{self._name}/tangent")
        return self._program("tangent", emitter, (target.name,))

    def _scaled(self, expression: Expr) -> Expr:
        """Write an expression in u, p, a and c: the input and derivatives with respect to the energy may overflow."""
        source = self._inputs[0].name
        plain = normalise(expression)
        swap = {e: self._at(self._rho, e) * self._u.at(e.indices) for e in plain.atoms(Indexed) if name_of(e) == source}
        for slope_, bounded, power in ((self._slopes[0], self._a, 2), (self._slopes[1], self._c, 1)):
            for e in plain.atoms(Indexed):
                if e.base == slope_.base:
                    swap[e] = self._at(bounded, e) / (2 * self._at(self._rho, e) ** power)
        terms = Add.make_args(normalise(plain.xreplace(swap)))
        result = normalise(Add(*(self._pulled(term) for term in terms)))
        if any(e.base == self._rho.base for e in result.atoms(Indexed)):
            raise ProgramError(f"map {self._name!r}: {result} is not bounded in the scaled input")
        return result

    def _pulled(self, term: Expr) -> Expr:
        """Replace ``f rho`` by ``p`` in a term that has both."""
        rho = [e for e in term.atoms(Indexed) if e.base == self._rho.base]
        swap = {self._at(self._f, e): self._at(self._p, e) / e for e in rho}
        return normalise(term.xreplace(swap))

    def _at(self, scalar: Indexed, entry: Indexed) -> Indexed:
        return scalar.base[entry.indices[:1]]

    def _scale(self, emitter: Emitter) -> None:
        emitter.assign(self._u, self._shrink * self._inputs[0].entry)

    def _emitter(self, more: list[Value]) -> Emitter:
        rows = [Value(name, (BATCH,)) for name in (*SCALARS, "shrink")]
        return Emitter({v.name: v for v in (*more, *self._inputs, *rows)})

    def _program(self, word: str, emitter: Emitter, outputs: tuple[str, ...]) -> Program:
        made = {i.target.name for i in emitter.instructions}
        inputs = tuple(v for v in emitter.values.values() if v.name not in made)
        whole = Program(f"{self._name}/{word}", inputs, (), tuple(emitter.instructions), outputs)
        return whole.restricted(whole.name, outputs)


def _declared(name: str, axes: tuple[Expr, ...]) -> Value:
    indices = (BATCH if axis == BATCH.size else Index(f"_{name}_{k}", axis) for k, axis in enumerate(axes))
    return Value(name, tuple(indices))
