"""Subjects for row maps: torch's ``Linear`` and the generated maps of affine and linear layers, plain and centred."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

import derive
from codegen.targets.base import NAMES
from derive.declare import forward
from derive.forward_map import Layer
from verify.checks import references, target
from verify.checks.cases import Case, Draw, Laid, Place, Source, Subject
from verify.derived import derived

_CLASSES = {"affine-like": "AffineLike", "norm-like": "NormLike"}
_PLACES = {"W": Place("weight"), "b": Place("bias")}
_LARGEST_BATCH = 9


def subjects(layer: str) -> list[Subject]:
    """Return the subjects of ``affine`` or ``linear``: the uncorrected layer, maps, their kernels, the centred map."""
    biased = layer == "affine"
    forms = ("norm-like", "affine-like") if biased else ("norm-like",)
    by = ("x", "W", "b") if biased else ("x", "W")
    found = [_plain(layer, biased)]
    for form in forms:
        for backend in NAMES:
            found.append(_map(layer, form, by, backend))
    return [*found, _centred(by)]


def _plain(layer: str, biased: bool) -> Subject:
    def draw(random: Draw, kappa: float) -> Case:
        n, m = random.size(), random.size()
        return instance(random, nn.Linear(n, m, bias=biased), n, m, {})

    return Subject(layer, layer, lambda: Source(derived(layer).layer), draw, backend="torch.nn", factor=factor)


def _map(layer: str, form: str, by: tuple[str, ...], backend: str) -> Subject:
    biased = "b" in by

    def draw(random: Draw, kappa: float) -> Case:
        """Return a module with random sizes."""
        n, m = random.size(), random.size()
        module = getattr(target.package(), _CLASSES[form])(n, m, bias=biased, kappa=kappa)
        return instance(random, module, n, m, {"kappa": kappa}, None if backend == "torch" else (backend, form))

    def reference(tensors: Mapping[str, Tensor], case: Case) -> Tensor:
        return references.ROWS[form](tensors["x"], tensors["W"], tensors.get("b"), case.kappa)

    return Subject(
        name=form if biased else f"{layer}/{form}",
        layer=layer,
        source=lambda: _solved(layer, form),
        draw=draw,
        variant="" if backend == "torch" else backend,
        backend=backend,
        form=form,
        reference=reference,
        by=by,
        factor=factor if backend == "torch" else None,
    )


@cache
def _solved(layer: str, form: str) -> Source:
    found = next(m for m in derived(layer).solutions if m.name == form)
    return Source(found.mapped, found)


def _centred(by: tuple[str, ...]) -> Subject:
    """The norm-like map of centred rows: LayerNorm without gain, then the linear map."""
    biased = "b" in by

    def draw(random: Draw, kappa: float) -> Case:
        """Return a centred module with random sizes."""
        n, m = max(3, random.size()), random.size()
        module = target.package().NormLike(n, m, bias=biased, kappa=kappa, center=True)
        return instance(random, module, n, m, {"kappa": kappa})

    def reference(tensors: Mapping[str, Tensor], case: Case) -> Tensor:
        x = references.centred(tensors["x"])
        return references.norm_like(x, tensors["W"], tensors.get("b"), case.kappa)

    name = "centred-affine" if biased else "centred-linear"
    return Subject(
        name=f"{name}/norm-like",
        layer="affine" if biased else "linear",
        source=lambda: _solved_centred(name, biased),
        draw=draw,
        form="norm-like",
        reference=reference,
        by=by,
        factor=factor,
    )


@cache
def _solved_centred(name: str, biased: bool) -> Source:
    found = derive.solve(centred_layer(name, biased))["norm-like"]
    return Source(found.mapped, found)


def centred_layer(name: str, biased: bool) -> Layer:
    """Return the layer ``z = W (x - mean x) + b``, whose solutions are the centred maps."""
    return forward(
        name,
        title="Affine map of the centred input" if biased else "Linear map of the centred input",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n", **({"b": "m"} if biased else {})},
        formulas=["c[j] = x[j] - sum[k](x[k])/n", f"z[i] = sum[j](W[i, j]*c[j]){' + b[i]' if biased else ''}"],
    )


def instance(
    random: Draw,
    module: nn.Module,
    n: int,
    m: int,
    scalars: Mapping[str, float],
    kernels: tuple[str, str] | None = None,
) -> Case:
    """Return a random instance of a row module; ``kernels`` are the backend and form that compute it."""
    batch = random.whole(1, _LARGEST_BATCH)
    places = {name: place for name, place in _PLACES.items() if getattr(module, place.attribute) is not None}
    scale = random.power(-1, 1)
    return Case(
        module=Laid(random.real(module), _call if kernels is None else by_kernels(*kernels)),
        inputs={"x": scale * random.normal(batch, n)},
        g=random.gradient(batch, m),
        places=places,
        scalars=scalars,
        sizes={"B": batch, "n": n, "m": m},
        eta=random.power(-1, 6),
    )


def _call(module: nn.Module, x: Tensor) -> Tensor:
    z: Tensor = module(x)
    return z


def by_kernels(backend: str, form: str) -> Any:
    """Return a function that applies one target's kernels with a module's parameters."""

    def call(module: Any, x: Tensor) -> Tensor:
        """Return the output of the backend's function with the module's parameters."""
        function = getattr(target.part(f"kernels.{backend}.functional"), form.replace("-", "_"))
        z: Tensor = function(x, module.weight, module.bias, module.kappa)
        return z

    return call


def factor(case: Case) -> Tensor:
    """Return the self factor that the package states for the module, one number per row: (B, 1)."""
    inner = case.module.inner
    assert isinstance(inner, nn.Module)
    stated: Tensor = target.package().self_factor(inner, case.inputs["x"])
    return stated.unsqueeze(-1)
