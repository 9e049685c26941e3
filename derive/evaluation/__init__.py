"""Independent evaluation: recompute the statements of a derivation at small sizes, with exact numbers.

This package shares only the expression nodes with the deriver (``derive.algebra.nodes`` and ``index``). It has its own
numbers (``fields``), values and derivatives of functions (``functions``), tensor entries and derivatives of expressions
(``evaluate``), and update rules (``moves``). It rewrites nothing: it eliminates no delta, splits no sum and takes no
normal form.
"""
