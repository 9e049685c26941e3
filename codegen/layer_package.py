"""A package with one layer: a class for each cancelling map, one for the layer as it is, and its self factor.

Any layer has such a package. Where no map cancels, the manifest says why.

row form      a layer of one matrix is compiled as the shipped affine layer is, for every target (``plans.row_form``)
any other     programs with gathers, in torch's operations and in C++ kernels that walk over samples
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sympy import Expr

from codegen.package import MANIFEST, SCHEMA, check_name
from codegen.plans.layers import LayerPlan, layer_plan
from codegen.plans.plain import plain_plan, self_factor_plan
from codegen.plans.row_form import row_form
from codegen.plans.rows import plan
from codegen.plans.solve_at import solve_at
from codegen.printing.naming import Family
from codegen.targets.cpp import target as cpp_target
from codegen.targets.cpp.layer_target import layer_files as cpp_files
from codegen.targets.cuda import target as cuda_target
from codegen.targets.reasons import REASONS
from codegen.targets.torch.layer_target import layer_files, row_files
from codegen.targets.torch.layer_words import class_name
from codegen.targets.triton import target as triton_target
from derive.errors import UsageError
from derive.export.prose import plain
from derive.forward_map import Layer

ANGLE = "angle-like"
_ROW_TARGETS: dict[str, Callable[[Sequence[Family]], dict[str, str]]] = {
    "triton": triton_target.files,
    "cuda": cuda_target.files,
    "cpp": cpp_target.files,
}
TARGETS = ("torch", *_ROW_TARGETS)


@dataclass(frozen=True)
class _Request:
    """What is to be generated of a layer: see ``build_layer``."""

    layer: Layer
    package: str = ""
    angle: Expr | None = None
    targets: Sequence[str] = TARGETS
    insist: bool = False
    spec: str = ""

    @property
    def name(self) -> str:
        """The name of the package: the layer's, if no other is given."""
        return self.package or self.layer.name


@dataclass
class _Built:
    """The files of a package, and by the name of a target why it has no kernels."""

    texts: dict[str, str]
    lacking: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)


def build_layer(
    layer: Layer,
    package: str = "",
    angle: Expr | None = None,
    targets: Sequence[str] = TARGETS,
    insist: bool = False,
    spec: str = "",
) -> dict[str, str]:
    """Derive the maps of a layer and return the text of every file by its name.

    Args:
        layer: the layer.
        package: the package's name; the layer's if none is given.
        angle: t(r), for the member of the family at that angle too.
        targets: those to write, ``torch`` among them.
        insist: whether a target that cannot compute the layer is an error; else it is left out, with the reason.
        spec: the text of the layer's file, which the manifest then holds.

    Raises:
        UsageError: a name that code cannot use; a target insisted on that cannot compute the layer.
    """
    request = _Request(layer, package, angle, targets, insist, spec)
    check_name(request.name)
    unknown = set() if angle is None else {s for s in angle.free_symbols if s.is_integer} - set(layer.sizes)
    if unknown:
        raise UsageError(
            f"the angle {angle} uses {min(unknown, key=str)}, which is no size of the layer {layer.name!r}; declare it"
        )
    solutions = solve_at(layer, angle)
    reasons = "; ".join(plain(refusal.reason) for refusal in solutions.refusals)
    plans = [layer_plan(m, ANGLE if m.name == "angle" else m.name) for m in solutions]
    plans.append(plain_plan(layer))
    built = _rows(request, plans) or _general(request, plans)
    if request.insist and built.lacking:
        target, reason = next(iter(built.lacking.items()))
        raise UsageError(
            f"targets: {target} cannot compute the layer {layer.name!r}: {REASONS[reason]}"
            f"{built.details.get(target, '')}; leave {target} out of --targets"
        )
    return _with_manifest(request, plans, built, reasons)


def _rows(request: _Request, plans: Sequence[LayerPlan]) -> _Built | None:
    """Return the package of a layer of one matrix; None for any other layer."""
    form = row_form(request.layer) if request.angle is None else None
    if form is None:
        return None
    try:
        families = [Family(m.name, plan(m), None) for m in solve_at(form.layer, None)]
    except UsageError:
        return None
    if not families or [f.name for f in families] != [p.name for p in plans[:-1]]:
        return None
    texts = row_files(request.layer, plans, self_factor_plan(request.layer), families, form.order)
    for target in request.targets:
        if target in _ROW_TARGETS:
            texts |= {n: t for n, t in _ROW_TARGETS[target](families).items() if n != f"_{target}.py"}
    if "cpp" in request.targets:
        texts |= cpp_files(request.layer, plans[-1:])
    return _Built(texts)


def _general(request: _Request, plans: Sequence[LayerPlan]) -> _Built:
    """Return the package of any layer."""
    built = _Built(layer_files(request.layer, plans, self_factor_plan(request.layer)))
    for target in request.targets:
        if target in ("triton", "cuda"):
            built.lacking[target] = "form"
    if "cpp" in request.targets:
        try:
            built.texts |= cpp_files(request.layer, plans)
        except UsageError as problem:
            built.lacking["cpp"], built.details["cpp"] = "arithmetic", f" ({problem})"
    return built


def _with_manifest(request: _Request, plans: Sequence[LayerPlan], built: _Built, refused: str) -> dict[str, str]:
    texts = dict(sorted(built.texts.items()))
    layer = request.layer
    manifest = {
        "schema": SCHEMA,
        "package": request.name,
        "layer": layer.name,
        **({"spec": request.spec} if request.spec else {}),
        "classes": {class_name(layer, p): p.layer.name for p in plans if p.kappa is not None},
        "plain": {class_name(layer, p): p.layer.name for p in plans if p.kappa is None},
        "targets": [t for t in request.targets if t not in built.lacking],
        "without": {t: {"reason": r, "text": REASONS[r] + built.details.get(t, "")} for t, r in built.lacking.items()},
        "refused": refused,
        "derivations": {p.layer.name: p.digest for p in plans},
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    texts[MANIFEST] = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    return texts
