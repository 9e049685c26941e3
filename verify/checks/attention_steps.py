"""Subjects for steps inside a whole attention module: of its output, its value path and its scores.

The parameters of one part move and all others are held; the input of that part is recorded inside the module. The
scores are recovered from the attention weights: each is the logarithm of its weight over the weight of the zero key
that ``add_zero_attn`` appends. QK-norm does not cancel the factor: the remaining self factor is written by hand, as an
independent check of the derived one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from derive.declare import forward
from derive.forward_map import Layer
from verify.checks import references, target
from verify.checks.cases import Case, Draw, Laid, Place, Source, Subject
from verify.derived import derived

_FORM = "affine-like"
_PARAMETERS = {"WQ": "R d n", "bQ": "R d", "WK": "R d n", "bK": "R d"}
_PROJECTED = [
    "e[t] = sum[j](x[t, j]**2)",
    "u[r, t, h] = (sum[j](WQ[r, h, j]*x[t, j]) + bQ[r, h])/sqrt(e[t] + 1)",
    "a[l] = sum[j](y[l, j]**2)",
    "k[r, l, h] = (sum[j](WK[r, h, j]*y[l, j]) + bK[r, h])/sqrt(a[l] + 1)",
]
_PLAIN = ["z[r, t, l] = sum[h](u[r, t, h]*k[r, l, h])/sqrt(d)"]
_QK_NORM = [
    "uu[r, t] = sum[h](u[r, t, h]**2)",
    "kk[r, l] = sum[h](k[r, l, h]**2)",
    "z[r, t, l] = sqrt(d)*sum[h](u[r, t, h]*k[r, l, h])/sqrt(uu[r, t]*kk[r, l])",
]
_Call = Callable[[Any, Tensor, Tensor], Tensor]


def step_subjects(settings: Mapping[str, Mapping[str, Any]]) -> list[Subject]:
    """Return the subjects for steps of the output (one per setting of the module), the value path and the scores."""
    outputs = [_output(variant, words) for variant, words in settings.items()]
    plain = _scores("affine-like>attention", _PLAIN, {})
    unit = _scores("affine-like>qk-norm>attention", _QK_NORM, {"qk_norm": True})
    return [*outputs, _value(), plain, unit]


@cache
def _solved(part: str) -> Source:
    found = next(m for m in derived(part).solutions if m.name == _FORM)
    return Source(found.mapped, found)


def _case(
    random: Draw,
    settings: Mapping[str, Any],
    call: _Call,
    places: Callable[[int, int], dict[str, Place]],
    moving: Mapping[str, slice],
    met: Callable[[Case], Mapping[str, Tensor]] | None = None,
) -> Case:
    """Return a random module in which only the rows ``moving`` of the named parameters are trained."""
    heads, width, batch = random.whole(1, 2), random.whole(2, 3), random.whole(1, 2)
    asking, answering = random.whole(1, 3), random.whole(2, 3)
    wide = heads * width
    module = random.real(target.package().AffineLikeMultiheadAttention(wide, heads, batch_first=True, **settings))
    trained = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for name, rows in moving.items():
        trained[name][rows] = 1.0
    inputs = {"x": random.normal(batch, asking, wide), "y": random.normal(batch, answering, wide)}
    with torch.no_grad():
        shape = call(module, *inputs.values()).shape
    return Case(
        module=Laid(module, call),
        inputs=inputs,
        g=random.gradient(*shape),
        places=places(heads, width),
        scalars={"kappa": 1.0},
        sizes={"B": batch, "n": wide, "m": wide, "d": width, "R": heads, "T": asking, "S": answering},
        eta=random.power(-1, 6),
        trained=trained,
        met=met,
    )


def _context(inner: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return the input of ``out_proj``, by head: (B, R, T, d)."""
    seen: list[Tensor] = []
    handle = inner.out_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        inner(x, y, y)
    finally:
        handle.remove()
    return seen[0].unflatten(-1, (inner.num_heads, -1)).transpose(1, 2)


def _weights(inner: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return the attention weights of each head, (B, R, T, S)."""
    weights: Tensor = inner(x, y, y, average_attn_weights=False)[1]
    return weights


def _whole(inner: Any, x: Tensor, y: Tensor) -> Tensor:
    z: Tensor = inner(x, y, y)[0]
    return z


def _scores_of(inner: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return the scores, (B, R, T, S); the zero key, which is the last, has score zero."""
    logarithms = _weights(inner, x, y).log()
    return logarithms[..., :-1] - logarithms[..., -1:]


def _output(variant: str, settings: Mapping[str, Any]) -> Subject:
    """The output projection inside a whole module."""

    def places(heads: int, width: int) -> dict[str, Place]:
        weight = Place("out_proj.weight", lambda t: t.unflatten(1, (heads, width)))
        return {"W": weight, "b": Place("out_proj.bias")}

    def draw(random: Draw, kappa: float) -> Case:
        every = {"out_proj.weight": slice(None), "out_proj.bias": slice(None)}
        return _case(random, settings, _whole, places, every, lambda case: {"c": _context(*_arguments(case))})

    return Subject(
        name=f"attention-output/{_FORM}",
        layer="attention",
        source=lambda: _solved("attention-output"),
        draw=draw,
        variant=f"inside-{variant}",
        form=_FORM,
        families=("identity", "property"),
        measures=("bound",),
        symmetry=_token_order,
    )


def _arguments(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    inner = case.module.inner
    assert isinstance(inner, nn.Module)
    return inner, case.inputs["x"], case.inputs["y"]


def _token_order(case: Case) -> float:
    """Return the departure from symmetry: reversed queries must give reversed outputs, reversed keys the same ones."""
    inner, x, y = _arguments(case)
    with torch.no_grad():
        z = _whole(inner, x, y)
        asked, answered = _whole(inner, x.flip(1), y).flip(1), _whole(inner, x, y.flip(1))
        return float(torch.stack([asked - z, answered - z]).abs().max() / z.abs().max())


def _value() -> Subject:
    """The value path inside a whole module with held attention weights; their sum E cancels out of the step."""

    def places(heads: int, width: int) -> dict[str, Place]:
        return {"W": _block("in_proj_weight", 2, heads, width), "b": _block("in_proj_bias", 2, heads, width)}

    def draw(random: Draw, kappa: float) -> Case:
        """Return a random module in which only the value parameters are trained."""
        settings = {"value_path": True}
        case = _case(random, settings, _context, places, {}, lambda case: {"E": _weights(*_arguments(case))})
        assert case.trained is not None
        for name in ("in_proj_weight", "in_proj_bias"):
            case.trained[name][2 * case.sizes["n"] :] = 1.0
        return case

    return Subject(
        name=f"attention-value/{_FORM}",
        layer="attention",
        source=lambda: _solved("attention-value"),
        draw=draw,
        variant="inside-value-path",
        form=_FORM,
        families=("identity",),
    )


def _block(attribute: str, part: int, heads: int, width: int) -> Place:
    """Return the place, by head, of the queries (0), keys (1) or values (2) in the module's stacked parameter."""
    rows = slice(part * heads * width, (part + 1) * heads * width)
    return Place(attribute, lambda t: t[rows].unflatten(0, (heads, width)))


def _scores(name: str, formulas: list[str], settings: Mapping[str, Any]) -> Subject:
    """The scores of a whole module, with query and key parameters trained."""

    def places(heads: int, width: int) -> dict[str, Place]:
        """Return the places of the heads' parameters in the module's parameters."""
        homes = {"W": "in_proj_weight", "b": "in_proj_bias"}
        return {
            f"{kind}{letter}": _block(home, part, heads, width)
            for part, letter in enumerate("QK")
            for kind, home in homes.items()
        }

    def draw(random: Draw, kappa: float) -> Case:
        whole = {"in_proj_weight": slice(None), "in_proj_bias": slice(None)}
        return _case(random, {**settings, "add_zero_attn": True}, _scores_of, places, whole)

    return Subject(
        name=name,
        layer="attention",
        source=lambda: Source(_layer(name, tuple(formulas))),
        draw=draw,
        families=("identity",),
        residual=lambda case: residual(case, affine_like=True, unit=bool(settings)),
    )


@cache
def _layer(name: str, formulas: tuple[str, ...]) -> Layer:
    """Return the layer whose output is the scores of affine-like queries and keys."""
    return forward(
        name,
        title="Attention scores with affine-like queries and keys",
        sizes="n d R T S",
        inputs={"x": "T n", "y": "S n"},
        parameters=_PARAMETERS,
        formulas=[*_PROJECTED, *formulas],
    )


def residual(case: Case, *, affine_like: bool, unit: bool) -> Tensor:
    """Return the self factor of every score, (B, R, T, S), written by hand, with and without QK-norm.

    A query moves by p_t = ||x_t||^2 + 1 (1 if affine-like), and its score by that times ||k_s||^2. With unit queries
    and keys only the components orthogonal to the other vector count. The scale is 1/sqrt(d); with QK-norm it is
    sqrt(d) in the generated module and 1 in the derivation.
    """
    v = {**case.inputs, **case.parameters()}
    project = references.affine_like_heads if affine_like else references.heads
    q, k = project(v["x"], v["WQ"], v["bQ"]), project(v["y"], v["WK"], v["bK"])
    lengths = (v[name].square().sum(-1) + 1 for name in ("x", "y"))
    of_query, of_key = (torch.ones_like(p) if affine_like else p for p in lengths)
    of_query, of_key = of_query[:, None, :, None], of_key[:, None, None, :]
    qq, kk = q.square().sum(-1)[..., :, None], k.square().sum(-1)[..., None, :]
    if not unit:
        return (of_query * kk + of_key * qq) / q.shape[-1]
    apart = 1 - (normalize(q, dim=-1) @ normalize(k, dim=-1).mT).square()
    return (q.shape[-1] if affine_like else 1) * apart * (of_query / qq + of_key / kk)
