"""The names in a layer's text: which are well formed, and what each one means."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sympy import Expr, IndexedBase, Symbol

from derive.algebra.index import Index
from derive.algebra.nodes import IndexTensor
from derive.excerpt import Excerpt
from derive.forward_map import BATCH

ELEMENTARY = ("sqrt", "exp", "log", "tanh", "sin", "cos", "abs", "max")
NAMED = ("relu", "sigmoid", "silu", "gelu", "gelu_tanh", "erf", "softplus", "elu")
FUNCTIONS = (*ELEMENTARY, "min", "clip", "sign", "atan", "stop_gradient", *NAMED)
REDUCTIONS = ("sum", "mean", "var", "norm", "prod", "max", "min", "softmax", "logsumexp", "cumsum")
RESERVED = frozenset({*FUNCTIONS, *REDUCTIONS, "delta", "where", "pi", "eta", "kappa"})
LONGEST_NAME = 40
MOST_AXES = 8

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Named:
    """A tensor that formulas may use: its object, its declared axes, and the indices that the engine adds in front."""

    base: IndexedBase
    axes: tuple[Expr, ...]
    lead: tuple[Index, ...] = ()

    @property
    def integer(self) -> bool:
        """Whether its entries are integers, for use inside an index."""
        return isinstance(self.base, IndexTensor)

    def entry(self, indices: tuple[Expr, ...]) -> Expr:
        """Return the entry at ``indices``, of the current sample."""
        return self.base[(*self.lead, *indices)]


@dataclass(frozen=True)
class Namespace:
    """The meaning of each name in a formula.

    ``sizes`` are axis lengths, ``scalars`` positive settings; both may be used as numbers. ``offsets`` are integers
    that may be zero, for index expressions. With ``batched`` the formula names the batch index itself.
    """

    sizes: Mapping[str, Symbol]
    tensors: Mapping[str, Named]
    scalars: Mapping[str, Symbol] = field(default_factory=dict)
    offsets: Mapping[str, Symbol] = field(default_factory=dict)
    batched: bool = False

    @property
    def lead(self) -> tuple[Index, ...]:
        """The indices added in front of everything that varies by sample."""
        return () if self.batched else (BATCH,)

    @property
    def known(self) -> list[str]:
        """Every name in use."""
        return [*self.sizes, *self.tensors, *self.scalars, *self.offsets]

    def with_tensor(self, name: str, named: Named) -> Namespace:
        """Return the namespace with one more tensor."""
        return replace(self, tensors={**self.tensors, name: named})


def identifier(word: Excerpt, what: str, *, allowed: tuple[str, ...] = ()) -> str:
    """Return the text of ``word`` if it can name a ``what`` (a size, a tensor, an index), or raise ``SpecError``."""
    text = word.text
    if text in allowed:
        return text
    if len(text) > LONGEST_NAME:
        word.fail(f"{what} name {word.quoted} is longer than {LONGEST_NAME} characters", "shorten it")
    if not _IDENTIFIER.fullmatch(text) or "__" in text:
        word.fail(
            f"{word.quoted} cannot name {'an' if what[0] in 'aeiou' else 'a'} {what}",
            "use a letter first, then letters, digits and single underscores (ASCII only)",
        )
    if keyword.iskeyword(text):
        word.fail(f"{what} name {word.quoted} is a keyword of Python", "choose another name")
    if text in RESERVED:
        word.fail(f"{what} name {word.quoted} is reserved by the formula language", f"rename it, for example '{text}1'")
    return text
