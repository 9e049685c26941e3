"""Tables, forms and sentences about the maps of convolutions, the same in every target's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codegen.plans.patch_maps import PatchMap
from codegen.printing.expressions import ExpressionPrinter
from derive.errors import UsageError

DEFAULT_FORM = "affine-like"
_ZERO = " A patch of zeros has no direction: its weight part and its gradient are zero."


def patch_tables(maps: Sequence[PatchMap]) -> dict[str, Any]:
    """Return the context of ``patch_maps.py.jinja``: the maps, their properties and tables."""
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


def patch_words(maps: Sequence[PatchMap]) -> dict[str, str]:
    """Return the text about the forms in signatures and docstrings, for plain, centred and transposed ones alike."""
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
    }
