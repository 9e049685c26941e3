"""Derivations that several tests of the export share: some derived once, and one written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from sympy import KroneckerDelta

import derive
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, tensor
from derive.cancel import Refusal
from derive.export.summary import full_derivation
from derive.forward_map import BATCH, Definition, Layer, Tensor
from derive.record import Derivation, SelfFactor, Status, Step, Verdict

HOSTILE = r"\input{secret} $x$ %_# & ~^ {}<script>alert('x')</script> | `code` [a](b) @all é → κ 😀 -- <!-- "

Full = Callable[[str], Derivation]


@cache
def _full(name: str) -> Derivation:
    return full_derivation(derive.layer(name))


@pytest.fixture(scope="session")
def full() -> Full:
    """Return a built-in layer's derivation with its cancelling maps, derived once."""
    return _full


@pytest.fixture
def by_hand() -> Derivation:
    """A derivation written by hand, with a refuted step and text that would be markup in every format."""
    n, m = size_symbol("n"), size_symbol("m")
    s, i, j = BATCH, Index("i", m), Index("j", n)
    x, W, z, K = (tensor(name) for name in ("x", "W", "z", "K"))
    product = IndexedSum(W[i, j] * x[s, j], j)
    layer = Layer(
        name="by_hand",
        title=HOSTILE,
        sizes=(s.size, n, m),
        inputs=(Tensor("x", (s.size, n)),),
        parameters=(Tensor("W", (m, n)),),
        definitions=(Definition("u", (s, i), product),),
        output=Definition("z", (s, i), tensor("u")[s, i]),
        notes=(HOSTILE,),
    )
    kernel = KroneckerDelta(i, i.primed()) * IndexedSum(x[s, j] * x[s.primed(), j], j)
    forward = Step("by_hand/forward", HOSTILE, z[s, i], z[s, i], tensor("u")[s, i], layer.definitions)
    wrong = Step("by_hand/self-factor", "wrong on purpose", K[s, i, s, i], product, product + 1)
    wrong = replace(wrong, verdict=Verdict(Status.REFUTED, "they differ by 1"))
    return Derivation(
        layer=layer,
        rule="sgd",
        steps=(forward, wrong),
        kernel=kernel,
        self_factor=SelfFactor(IndexedSum(x[s, j] ** 2, j), "isotropic", True),
        cross_terms=IndexedSum(x[s, j] * x[s.primed(), j], j),
        order_in_eta=1,
        samples=(s,),
        units=(i,),
        refusals=(Refusal("any", HOSTILE),),
    )
