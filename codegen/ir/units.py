"""Rows so long that their scale is less than the smallest normal number: *far* rows, with units of their own.

    f = sqrt(kappa)/|x|          of entries of 1e38, not a normal number of float32
    f/unit, and x*unit           both in the middle of the range; the unit is a power of two, so that nothing is rounded

The scale that is kept of a far row is that of its units, and negative, which no other scale is. From which length on a
row is far and its unit follow from the type alone; targets have both in their runtime.
"""

from __future__ import annotations

from sympy import Function


class InUnits(Function):
    """The peak p of a row in the row's units: p itself, or ``-p/unit`` of a far row, both constants to derivatives.

    From which peak on a row is far, and the unit, a power of two, are the runtime's; they follow from the type.
    """

    nargs = 1
