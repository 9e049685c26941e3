"""The files of PatchNorm: one for each map of a convolution, and the functions and modules that choose among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from codegen.plans.patch_maps import PatchMap
from codegen.plans.patches import patch_plan
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.naming import BACKEND_WORDS, INIT_WORDS, quoted
from codegen.targets.torch.patch_function import patch_context
from derive.cancel import solve
from derive.errors import UsageError
from derive.layers.convolution import convolution, transposed_convolution

MODULES = tuple(f"PatchNormConv{word}{axes}d" for word in ("", "Transpose") for axes in (1, 2, 3))
FUNCTIONS = tuple(f"patch_norm_conv{word}{axes}d" for word in ("", "_transpose") for axes in (1, 2, 3))
DEFAULT_FORM = "affine-like"
_AXES = 2
_ZERO = " A patch of zeros has no direction: its weight part and its gradient are zero."


@lru_cache(maxsize=1)
def patch_maps() -> tuple[PatchMap, ...]:
    """Derive every map of a convolution over two axes of space, with and without a bias, centred, and transposed."""
    found: list[PatchMap] = []
    for bias in (True, False):
        word = "" if bias else "-without-bias"
        plain = convolution(_AXES, grouped=True, bias=bias, name=f"grouped-convolution{word}")
        centred = convolution(_AXES, grouped=True, bias=bias, centred=True, name=f"centred-convolution{word}")
        turned = transposed_convolution(_AXES, grouped=True, bias=bias, name=f"grouped-transposed-convolution{word}")
        found += [PatchMap(patch_plan(m), bias) for m in solve(plain)]
        found += [PatchMap(patch_plan(m), bias, centred=True) for m in solve(centred)]
        found += [PatchMap(patch_plan(m), bias, transposed=True) for m in solve(turned)]
    return tuple(found)


def patch_contexts(maps: Sequence[PatchMap]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the template and its context for each file."""
    ordered = sorted(maps, key=lambda m: m.module)
    words = _words(ordered)
    files: dict[str, tuple[str, Mapping[str, Any]]] = {
        f"{m.module}.py": ("patch_function.py", patch_context(m)) for m in ordered
    }
    files["_patch_maps.py"] = ("_patch_maps.py", _tables(ordered))
    files["_patch_functional.py"] = ("_patch_functional.py", {**words, "exported": quoted(FUNCTIONS)})
    files["patch_modules.py"] = ("patch_modules.py", {**words, "exported": quoted(MODULES)})
    return files | {name: (name, {}) for name in ("_patches.py", "_patch_checks.py")}


def _tables(maps: Sequence[PatchMap]) -> dict[str, Any]:
    """Return what ``_patch_maps.py.jinja`` needs: the maps with what holds of each, and their tables."""
    entries = [(m, _entry(m)) for m in maps]
    return {
        "maps": [entry for _, entry in entries],
        "kinds": [
            ("CONVOLUTIONS", [entry for m, entry in entries if not m.transposed]),
            ("TRANSPOSED", [entry for m, entry in entries if m.transposed]),
        ],
    }


def _entry(chosen: PatchMap) -> dict[str, Any]:
    plan = chosen.plan
    return {
        "module": chosen.module,
        "function_class": chosen.function_class,
        "form": plan.name,
        "centred": chosen.centred,
        "with_bias": chosen.with_bias,
        "kappa": repr(float(plan.kappa_default)),
        "above": repr(float(plan.kappa_above)),
        "deviation": ExpressionPrinter(str, {plan.kappa: "kappa"}).text(plan.weight_deviation),
    }


def _words(maps: Sequence[PatchMap]) -> dict[str, str]:
    """Return what signatures and docstrings say of the forms, the same of plain, centred and transposed ones."""
    biased = {m.plan.name: _entry(m) for m in maps if m.with_bias}
    bare = {m.plan.name: _entry(m) for m in maps if not m.with_bias}
    for m in maps:
        known = (biased if m.with_bias else bare)[m.plan.name]
        if (known["kappa"], known["above"]) != (_entry(m)["kappa"], _entry(m)["above"]):
            raise UsageError(f"map {m.label!r}: its kappa differs from that of other maps of the form {m.plan.name!r}")
    forms = sorted(biased, key=lambda form: form != DEFAULT_FORM)
    kappas = [f"{biased[form]['kappa']} for {form}" for form in forms]
    kappas += [f"{bare[form]['kappa']} for {form} without a bias" for form in forms if form in bare]
    above = [f"above {entry['above']} for {form}" for form, entry in biased.items() if float(entry["above"])]
    return {
        "default_form": DEFAULT_FORM,
        "forms": " or ".join(f'"{form}"' for form in forms),
        "bare_forms": " or ".join(f'"{form}"' for form in sorted(bare)),
        "kappa_words": ", ".join(kappas) + "; it must be positive" + "".join(f", {words}" for words in above),
        "zero_words": _ZERO if bare else "",
        "init_words": INIT_WORDS,
        "backend_words": BACKEND_WORDS,
    }
