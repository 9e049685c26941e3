"""How an expression grows along a ray: its leading power of t when every real input is multiplied by t.

    e(t x) ~ t^d c(x)      as t -> 0 or t -> infinity;      equal for every t > 0 where the growth is exact

An entry of a real input has d = 1; a parameter, a constant or an entry of an integer input has d = 0. Products add
their powers, a sum keeps its dominant terms, and an elementary function is evaluated at the limit of its argument. A
coefficient may vanish in some directions (that of ``max(x, 0)`` does); there it gives no information.

Functions without a leading power (``log`` and ``exp`` far away, waves), and terms that cancel, raise ``Undecided``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, Mul, Pow, S

from derive.algebra.eliminate import is_guard
from derive.algebra.equality import equal
from derive.algebra.nodes import IndexedSum
from derive.algebra.normal import normalise
from derive.export.text import text

Bases = frozenset[IndexedBase]


class Undecided(ValueError):
    """No leading power is known; the text names the expression and the reason."""


_LONGEST = 60


def _shown(expression: Expr) -> str:
    """Return an expression for a message, if it is short."""
    told = text(expression)
    return f"`{told}`" if len(told) <= _LONGEST else "a part of the map"


@dataclass(frozen=True)
class Growth:
    """``e(t x) ~ t**degree * coefficient``; where it is ``exact``, for every t > 0 and not only in the limit.

    ``partial`` marks a coefficient that vanishes in some directions, where a lower power remains.
    """

    degree: Expr
    coefficient: Expr
    exact: bool
    partial: bool = False


def growth(expression: Expr, inputs: Bases, *, far: bool) -> Growth:
    """Return the growth of an expression as ``inputs`` are scaled by t, for t -> infinity (``far``) or t -> 0.

    Raises ``Undecided``.
    """
    return _Ray(inputs, far).of(expression)


@dataclass(frozen=True)
class _Ray:
    inputs: Bases
    far: bool

    def of(self, expression: Expr) -> Growth:
        """Return the growth of a node."""
        try:
            return self._node(expression)
        except Undecided:
            series = self._series(expression)
            if series is None:
                raise
            return series

    def _node(self, expression: Expr) -> Growth:
        """Return the growth of a node from the growth of its arguments."""
        if isinstance(expression, Indexed):
            return Growth(S.One if expression.base in self.inputs else S.Zero, expression, True)
        if not expression.atoms(IndexedBase) & self.inputs or is_guard(expression):
            return Growth(S.Zero, expression, True)
        if isinstance(expression, IndexedSum):
            body = self.of(expression.body)
            total = normalise(IndexedSum(body.coefficient, *expression.bound))
            return self._nonzero(Growth(body.degree, total, body.exact, body.partial), expression)
        if isinstance(expression, Add):
            return self._sum(expression)
        if isinstance(expression, Mul):
            parts = [self.of(a) for a in expression.args]
            degree = Add(*(p.degree for p in parts))
            if sum(p.partial for p in parts) > 1:  # one may vanish where the other does not
                raise Undecided(f"{_shown(expression)} has no leading power")
            coefficient = Mul(*(p.coefficient for p in parts))
            return Growth(degree, coefficient, all(p.exact for p in parts), any(p.partial for p in parts))
        if isinstance(expression, Pow):
            return self._power(expression)
        if isinstance(expression, sympy.Max):
            return self._largest([self.of(a) for a in expression.args], expression)
        return self._function(expression)

    def _nonzero(self, found: Growth, expression: Expr) -> Growth:
        if found.coefficient == 0 and not found.exact:
            raise Undecided(f"the leading terms of {_shown(expression)} cancel")
        return found

    def _dominant(self, parts: Sequence[Growth]) -> Expr:
        degrees = [p.degree for p in parts]
        return max(degrees) if self.far else min(degrees)

    def _sum(self, expression: Expr) -> Growth:
        parts = [p for p in (self.of(a) for a in expression.args) if p.coefficient != 0]
        if not parts:
            return Growth(S.Zero, S.Zero, True)
        degree = self._dominant(parts)
        leading = [p for p in parts if p.degree == degree]
        total = normalise(Add(*(p.coefficient for p in leading)))
        exact = len(leading) == len(parts) and all(p.exact for p in parts)
        vanishes = total == 0 or (len(leading) > 1 and equal(total, S.Zero))
        # A sum that contains signs (1 + sign(x)) vanishes in some directions.
        partial = any(p.partial for p in leading) or (len(leading) > 1 and total.has(sympy.sign, sympy.Heaviside))
        return self._nonzero(Growth(degree, S.Zero if vanishes else total, exact, partial), expression)

    def _power(self, expression: Pow) -> Growth:
        logistic = self._logistic(expression)
        if logistic is not None:
            return logistic
        base, exponent = self.of(expression.base), expression.exp
        if base.coefficient == 0:
            raise Undecided(f"{_shown(expression.base)} vanishes")
        if base.partial and not exponent.is_positive and base.coefficient.atoms(IndexedSum) == set():
            raise Undecided(f"{_shown(expression.base)} has no leading power in every direction")
        return Growth(base.degree * exponent, base.coefficient**exponent, base.exact, base.partial)

    def _largest(self, parts: Sequence[Growth], expression: Expr) -> Growth:
        """Compare the dominant ones of several arguments, unless they are known to be negative."""
        if any(p.partial for p in parts):
            raise Undecided(f"{_shown(expression)} has no leading power in every direction")
        moving = [p for p in parts if p.coefficient != 0]
        zero = [S.Zero] if len(moving) < len(parts) else []
        if len({p.degree for p in moving}) == 1:
            coefficient = sympy.Max(*(p.coefficient for p in moving), *zero)
            return Growth(moving[0].degree, coefficient, all(p.exact for p in parts))
        degree = self._dominant(moving)
        leading = [p for p in moving if p.degree == degree]
        if all(p.coefficient.is_negative for p in leading):
            rest = self._largest([p for p in parts if p not in leading], expression)
            return Growth(rest.degree, rest.coefficient, False)
        if all(p.coefficient.is_nonpositive for p in leading):
            raise Undecided(f"{_shown(expression)} has no leading power in every direction")
        # Where the dominant argument is negative, one of lower power is the largest: the coefficient is zero there.
        partial = not any(p.coefficient.is_positive for p in leading)
        floor = [S.Zero] if partial else []
        return Growth(degree, sympy.Max(*(p.coefficient for p in leading), *floor), False, partial)

    def _function(self, expression: Expr) -> Growth:
        """Evaluate an elementary function of one argument at the limit of its argument."""
        special = self._log_of_exponentials(expression)
        if special is not None:
            return special
        if len(expression.args) > 1 and not isinstance(expression, sympy.Heaviside):
            raise Undecided(f"{_shown(expression)} has no leading power")
        inner = self.of(expression.args[0])
        function = expression.func
        if isinstance(expression, sympy.Abs):
            return Growth(inner.degree, sympy.Abs(inner.coefficient), inner.exact, inner.partial)
        if inner.partial and (inner.degree != 0 or isinstance(expression, sympy.sign | sympy.Heaviside)):
            raise Undecided(f"{_shown(expression)} has no leading power in every direction")
        if isinstance(expression, sympy.sign | sympy.Heaviside):
            return Growth(S.Zero, function(inner.coefficient), inner.exact)
        if inner.degree == 0 or inner.coefficient == 0:
            return self._at(expression, inner.coefficient, inner.exact)
        if (inner.degree > 0) != self.far:
            if isinstance(expression, sympy.tanh | sympy.sin | sympy.atan):
                return Growth(inner.degree, inner.coefficient, False)
            return self._at(expression, S.Zero, False)
        if isinstance(expression, sympy.tanh | sympy.atan):
            return Growth(S.Zero, function(sympy.oo) * sympy.sign(inner.coefficient), False)
        raise Undecided(f"{_shown(expression)} has no leading power")

    def _at(self, expression: Expr, limit: Expr, exact: bool) -> Growth:
        """Return the value of a function at the finite limit of its argument."""
        value = expression.func(limit)
        if value.has(sympy.zoo, sympy.nan, sympy.oo) or (value == 0 and not exact):
            raise Undecided(f"{_shown(expression)} has no leading power")
        return Growth(S.Zero, value, exact)

    def _log_of_exponentials(self, expression: Expr) -> Growth | None:
        """Return the growth of ``log(c + exp(u) + exp(v))`` far away: the largest of 0, u and v, if c is positive."""
        levels = self._levels(expression.args[0]) if isinstance(expression, sympy.log) else None
        if levels is None:
            return None
        found = self._largest(levels, expression)
        return Growth(found.degree, found.coefficient, False, True)

    def _logistic(self, expression: Pow) -> Growth | None:
        """Return the growth of ``1/(c + exp(u))`` far away: 1/c where u is negative, and zero elsewhere."""
        levels = self._levels(expression.base) if expression.exp.is_negative else None
        constant = expression.base.as_independent(sympy.exp)[0]
        if levels is None or constant == 0:
            return None
        largest = self._largest([level for level in levels if level.coefficient != 0], expression)
        return Growth(S.Zero, constant**expression.exp * sympy.Heaviside(-largest.coefficient), False, True)

    def _levels(self, total: Expr) -> list[Growth] | None:
        """Return the growth of 0 and of the exponents of a sum of exponentials and a constant, all positive."""
        if not (self.far and isinstance(total, Add)):
            return None
        levels: list[Growth] = []
        for term in total.args:
            factor, power = term.as_independent(sympy.exp)
            steady = factor.is_positive and not factor.atoms(IndexedBase) & self.inputs
            if not steady or not (power == 1 or isinstance(power, sympy.exp)):
                return None
            levels.append(Growth(S.Zero, S.Zero, True) if power == 1 else self.of(power.args[0]))
        moving = [level for level in levels if level.coefficient != 0]
        return levels if moving and all(level.degree > 0 for level in moving) else None

    def _series(self, expression: Expr) -> Growth | None:
        """Return the first term of the power series of an elementary function of one entry, near zero."""
        entries = [e for e in expression.atoms(Indexed) if e.base in self.inputs]
        if self.far or len(entries) != 1 or expression.has(IndexedSum):
            return None
        t, u = sympy.Symbol("t", positive=True), sympy.Symbol("u", real=True, nonzero=True)
        try:
            coefficient, degree = expression.xreplace({entries[0]: t * u}).leadterm(t)
        except (ValueError, NotImplementedError, TypeError, AttributeError, sympy.PoleError):
            return None
        known = degree.is_Rational and not coefficient.has(t, sympy.oo, sympy.nan, sympy.zoo, sympy.log(t))
        return Growth(degree, coefficient.xreplace({u: entries[0]}), False) if known else None
