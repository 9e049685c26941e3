"""Indexed sums over SymPy: binding, differentiation, delta elimination, normal form, exact evaluation."""
