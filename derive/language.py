"""The language of layer files on one page, printed by ``affdiv language``; a test reads every example on it."""

from __future__ import annotations

from derive.algebra.named import DEFINITIONS
from derive.export.text import text
from derive.names import ELEMENTARY, FUNCTIONS, REDUCTIONS

EXAMPLES = (
    ("an affine map", "z[i] = sum[j](W[i, j]*x[j]) + b[i]"),
    ("a gate", "z[i] = silu(sum[j](W[i, j]*x[j]))*sum[j](V[i, j]*x[j])"),
    ("a convolution, zeros around", "z[o, p:L] = sum[c, k](F[o, c, k]*X[c, p + k - 1])"),
    ("edges that repeat", "z[o, p:L] = sum[c, k](F[o, c, k]*X[c, clip(p + k - 1, 0, L - 1)])"),
    ("edges that wrap", "z[o, p:L] = sum[c, k](F[o, c, k]*X[c, (p + k - 1) % L])"),
    ("edges that reflect", "z[o, p:L] = sum[c, k](F[o, c, k]*X[c, L - 1 - abs(L - 1 - abs(p + k - 1))])"),
    ("causal attention", "A[t, r] = softmax[r](S[t, r]/sqrt(n), r <= t)"),
    ("a window", "z[t:T, j] = mean[r](Y[r, j]*w[j], 0 <= t - r < 3)"),
    ("groups of four heads", "z[r:8, j] = W[r // 4, j]*x[j]"),
    ("a choice", "z[t:T, j] = where(t == 0, 2, 1)*w[j]*Y[t, j]"),
    ("a mean and a deviation", "z[i] = (u[i] - mean[a](u[a]))/sqrt(var[a](u[a]) + 0.001)"),
    ("a running sum", "z[t, j] = cumsum[t](w[j]*Y[t, j])"),
    ("a look-up", "z[i] = E[token[0], i]"),
    ("a position as a number", "z[t, r] = S[t, r] - 0.5*(t - r)"),
    ("a decay with distance", "z[t, r] = S[t, r]*where(r <= t, 0.9**(t - r), 0)"),
    ("a choice by value", "z[i] = where(u[i] > 0, u[i], b[i]*u[i])"),
    ("a setting as exponent", "z[i] = sum[j](W[i, j]*abs(x[j])**alpha)"),
    ("a scale held fixed", "z[i] = u[i]/stop_gradient(norm[a](u[a]))"),
)


def page() -> str:
    """Return the page."""
    return "\n".join([*_FILE, *_names(), *_INDICES, *_examples()])


_FILE = (
    "A LAYER FILE (TOML)",
    '  name = "my_layer"            title = "..."                  # a line of text, optional',
    '  sizes = ["n", "m"]           offsets = ["pad"]              # offsets: integers that may be 0',
    '  scalars = ["alpha"]                                         # positive settings',
    "  [input]",
    '  x = ["n"]                    token = { axes = [1], values = "v" }   # integers below v, for brackets',
    "  [parameters]",
    '  W = ["m", "n"]               F = ["2*m", "n + 1"]           # sums and products of sizes too',
    "  [output]",
    '  z = ["m"]',
    '  definitions = ["u[i] = ..."] # intermediates, in order of use; each shows in the derivation',
    '  formula = "z[i] = ..."       # written for one sample: the batch is put in front',
    "                               # of several outputs: formulas = [..] in their order; each is a part (--of N)",
    "",
)
_INDICES = (
    "INDICES AND CONDITIONS",
    "  an index runs over the axis that it indexes by itself; else give its size: sum[k:3](...), z[p:L] = ...",
    "  give it too for a part of a longer axis: sum[k:f](W[i, k]), where that axis of W has the length 2*f",
    "  in brackets   integers, sizes, indices, integer inputs, + - * // % min max abs clip; outside a tensor is 0",
    "  conditions    a <= b, <, >=, >, ==, !=, 0 <= i - j < 3, joined by and, or, not; 1 where true, 0 elsewhere",
    "                of numbers too, u[i] > 0: a step, half where both are equal; masks need conditions on indices",
    "                as second argument of a reduction, in where(condition, a, b), or as a factor: (j <= i)*x[j]",
    "  delta(a, b)   1 where a equals b, as (a == b)",
    "",
)


def _names() -> list[str]:
    lines = [
        "FORMULAS",
        "  + - * / ** decimals, pi; sizes and indices as numbers, with // and %",
        "                exponents other than numbers and settings need a positive base: 0.9**(t - r), u[i]**p[i]",
    ]
    plain = [name for name in FUNCTIONS if name not in DEFINITIONS]
    assert set(ELEMENTARY) <= set(plain)
    lines.append(f"  functions     {' '.join(plain)}")
    lines.append(f"  under a name  {' '.join(DEFINITIONS)}, kept in results: silu(v), silu'(v)")
    lines += [f"                {name}(v) = {_defined(name)}" for name in DEFINITIONS if name != "erf"]
    lines.append(f"  reductions    {' '.join(f'{name}[j]' for name in REDUCTIONS)}")
    lines.append("                softmax and cumsum have a value for each j, which is bound outside")
    return [*lines, ""]


def _defined(name: str) -> str:
    from sympy import Symbol

    return text(DEFINITIONS[name](Symbol("v", real=True)))


def _examples() -> list[str]:
    return ["EXAMPLES", *(f"  {what:<30}{formula}" for what, formula in EXAMPLES), ""]
