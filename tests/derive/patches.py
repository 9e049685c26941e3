"""How faults are planted in the deriver at run time, and small layers that reveal them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import _lru_cache_wrapper, cached_property
from typing import Any

import pytest
from sympy import Expr
from sympy.core.cache import clear_cache

from derive.algebra import differentiate, normal
from derive.deriver import Deriver

Patch = Callable[[pytest.MonkeyPatch], None]

W, V, B, SQUARE, ROW = 'W = ["m", "n"]', 'V = ["m"]', 'b = ["m"]', 'W = ["n", "n"]', 'w = ["k"]'

LAYERS: dict[str, tuple[str, str, str]] = {  # parameters, intermediates, formula
    "tanh": (W, "", "z[i] = tanh(sum[j](W[i,j]*x[j]))"),
    "exp": (W, "", "z[i] = exp(sum[j](W[i,j]*x[j]))"),
    "log": (W, "", "z[i] = log(sum[j](W[i,j]**2*x[j]**2))"),
    "waves": (W, "", "z[i] = sum[j](sin(W[i,j]*x[j]) + cos(W[i,j])*x[j])"),
    "abs": (W, "", "z[i] = sum[j](abs(W[i,j]*x[j]) + W[i,j])"),
    "root": (W, "", "z[i] = sum[j](W[i,j]*x[j])/sqrt(sum[j](W[i,j]**2) + 1)"),
    "largest": (W, "", "z[i] = max(sum[j](W[i,j]*x[j]), 0)"),
    "square": (W, "", "z[i] = sum[j](W[i,j]**2*x[j])"),
    "squared": (f"{W}\n{V}", "", "z[i] = (sum[j](W[i,j]*x[j]) + V[i])**2"),
    "both": (f"{W}\n{V}", "", "z[i] = V[i]*sum[j](W[i,j]*x[j])"),
    "halves": (f"{W}\n{B}", "", "z[i] = sum[j](3*W[i,j]*x[j])/2 + b[i]/sqrt(4*sum[j](x[j]**2) + 8)"),
    "steps": (f"{W}\n{B}", '"u[i] = sum[j](W[i,j]*x[j]) + b[i]"', "z[i] = u[i]**2"),
    "deep": (f'{SQUARE}\nV = ["m", "n"]', '"u[i] = sum[j](W[i,j]*x[j])"', "z[i] = sum[j](V[i,j]*u[j])"),
    "soft": (W, '"u[i] = sum[j](W[i,j]*x[j])", "q = sum[i](u[i]**2)"', "z[i] = u[i]/sqrt(q)"),
    "window": ('W = ["k"]', "", "z[p] = sum[l](W[l]*x[2*p + l])"),
    "shared": (ROW, "", "z[p] = sum[l:n](w[p + l]*x[l])"),
    "ones": (W, "", "z[i] = sum[j,l:k](W[i,j]*x[j])"),
    "twice": (SQUARE, "", "z[i] = sum[j,l](W[i,j]*W[j,l]*x[l])"),
}


def text(name: str) -> str:
    """The layer file of a made-up layer."""
    parameters, intermediates, formula = LAYERS[name]
    axis = "n" if name == "twice" else "m"
    head = 'name = "made"\nsizes = ["n", "m", "k"]\n[input]\nx = ["n"]\n[parameters]\n'
    return f'{head}{parameters}\n[output]\nz = ["{axis}"]\ndefinitions = [{intermediates}]\nformula = "{formula}"\n'


@dataclass(frozen=True)
class Fault:
    """A fault: how to plant it, and the layer (from ``LAYERS`` or built-in) and the rule that reveal it."""

    layer: str
    patch: Patch
    rule: str = "sgd"


@contextmanager
def fresh() -> Iterator[None]:
    """Clear all caches of the deriver, before and after."""
    forget()
    try:
        yield
    finally:
        forget()


def forget() -> None:
    """Clear every cache of the deriver, and SymPy's."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "derive" and not name.startswith("derive.evaluation"):
            for kept in vars(module).values():
                if isinstance(kept, _lru_cache_wrapper):
                    kept.cache_clear()
    normal._known.clear()
    clear_cache()


def wrapped(module: Any, name: str, change: Callable[[Any], Any]) -> Patch:
    """Change the return value of a function."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: change(right(*a, **k)))

    return patch


def instead(module: Any, name: str, wrong: Any) -> Patch:
    """Replace a function or a property by another."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, name, wrong)

    return patch


def stage(name: str, change: Callable[[Deriver, Any], Any]) -> Patch:
    """Change the result of a stage of the derivation."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(Deriver, name)
        if isinstance(right, cached_property):
            wrong = cached_property(lambda self: change(self, right.func(self)))
            wrong.__set_name__(Deriver, name)
            monkeypatch.setattr(Deriver, name, wrong)
        else:
            monkeypatch.setattr(Deriver, name, lambda self, *a: change(self, right(self, *a)))

    return patch


def slope(kind: type[Expr], wrong: Callable[[Expr], Expr]) -> Patch:
    """Give one function a wrong derivative."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = differentiate.outer_derivative
        monkeypatch.setattr(
            differentiate, "outer_derivative", lambda e, k: wrong(e) if isinstance(e, kind) else right(e, k)
        )

    return patch
