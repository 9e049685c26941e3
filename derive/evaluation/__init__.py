"""Independent evaluation: what a derivation states, computed anew at small sizes with exact numbers.

Shared with the deriver are the expression nodes alone (``derive.algebra.nodes`` and ``index``). Everything else is this
package's own: the numbers (``fields``), the values and slopes of functions (``functions``), the reading of tensors and
the slopes of expressions (``evaluate``), what moves under an update rule (``moves``). Nothing is rewritten here: no
delta is eliminated, no sum is split, no normal form is taken.
"""
