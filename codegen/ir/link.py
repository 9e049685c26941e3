"""A link: the relation of input position, output position and filter entry along one axis of space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sympy import Expr, KroneckerDelta

from derive.algebra.index import Index


@dataclass(frozen=True)
class Link:
    """``long = stride*position + dilation*kernel - padding`` along one axis of space.

    A convolution reads its input at ``long`` and writes at ``position``; a transposed one the other way round.
    """

    long: Index
    position: Index
    kernel: Index
    stride: Expr
    dilation: Expr
    padding: Expr

    @property
    def indices(self) -> tuple[Index, Index, Index]:
        """The three indices that the link relates."""
        return (self.long, self.position, self.kernel)

    @property
    def delta(self) -> Expr:
        """1 where the three satisfy the relation, 0 elsewhere."""
        return KroneckerDelta(self.long, self.stride * self.position + self.dilation * self.kernel - self.padding)

    def renamed(self, names: Mapping[Index, Index]) -> Link:
        """Return the link between other indices of the same axes."""
        long, position, kernel = (names.get(i, i) for i in self.indices)
        return replace(self, long=long, position=position, kernel=kernel)
