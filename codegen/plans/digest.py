"""A digest of a derived map that depends only on its mathematics, not on the process, hash seed or SymPy version.

The hashed text is our own (not ``srepr``, whose order of arguments is not stable): arguments of sums and products are
sorted by their text, and bound indices are numbered by the normal form.
"""

from __future__ import annotations

import hashlib

from sympy import Add, Basic, Expr, Indexed, Mul

from derive.algebra.index import Index
from derive.algebra.normal import normalise
from derive.forward_map import Layer, Tensor


def digest(layer: Layer) -> str:
    """Return the SHA-256 of the layer's declared tensors, definitions and output, in hexadecimal."""
    return hashlib.sha256(canonical(layer).encode()).hexdigest()


def canonical(layer: Layer) -> str:
    """Return the hashed text: one line per tensor, then one per definition, then the output."""
    lines = [f"{kind} {t.name} {' '.join(_text(a) for a in t.axes)}" for kind, t in _tensors(layer)]
    for definition in (*layer.definitions, layer.output):
        indices = " ".join(_text(i) for i in definition.indices)
        lines.append(f"{definition.name} [{indices}] = {_text(normalise(definition.expression))}")
    return "\n".join(lines) + "\n"


def _tensors(layer: Layer) -> list[tuple[str, Tensor]]:
    return [("input", t) for t in layer.inputs] + [("parameter", t) for t in layer.parameters]


def _text(part: Basic) -> str:
    """Return a prefix form such as ``(Mul (Indexed W i j) f)``."""
    if isinstance(part, Index):
        return f"{part.name}:{_text(part.size)}"
    if isinstance(part, Indexed):
        return f"{part.base.label}[{' '.join(_text(i) for i in part.indices)}]"
    if isinstance(part, Expr) and not part.args:
        return str(part)
    arguments = [_text(a) for a in part.args]
    if isinstance(part, Add | Mul):
        arguments.sort()
    return f"({type(part).__name__} {' '.join(arguments)})"
