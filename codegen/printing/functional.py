"""``functional.py``: the public functions of a package, over the maps of one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codegen.printing.naming import BACKEND_WORDS, AngleFamily, Family, family_context, quoted
from codegen.printing.rendering import SHARED, renderer
from codegen.targets.base import KERNELS, NAMES

_render = renderer(SHARED)


def targets_file() -> dict[str, str]:
    """Return the file that lists a package's targets, by its path."""
    context = {"quoted": quoted(NAMES), "kernels": KERNELS}
    return {"runtime/targets.py": _render("targets.py.jinja", context)}


def functions_text(
    families: Sequence[Family | AngleFamily],
    target: str = "torch",
    title: str = " of tensors",
    borrowed: Mapping[str, Sequence[str]] | None = None,
    dispatches: bool = False,
) -> str:
    """Return the text of ``functional.py`` over the maps of a target.

    Args:
        families: the maps.
        target: the target whose folder holds them.
        title: the end of the first sentence, which begins with "The generated maps as functions".
        borrowed: names that it imports from other files, by the file.
        dispatches: whether its functions choose their backend; if not, they are the target's own.
    """
    contexts, more = family_contexts(families), dict(borrowed or {})
    imports = _imports(contexts, target)
    if dispatches:
        imports = sorted(
            [
                *imports,
                "from .runtime.backends import at_once, chosen",
                "from .runtime.steps import as_step, is_one_step",
            ]
        )
    functions = [*(c["function"] for c in contexts), *(name for names in more.values() for name in names)]
    context = {
        "families": contexts,
        "imports": imports,
        "title": title,
        "borrowed": more,
        "exported": quoted(sorted(functions)),
        "dispatches": dispatches,
        "backend_words": BACKEND_WORDS,
    }
    return _render("functional.py.jinja", context)


def family_contexts(families: Sequence[Family | AngleFamily]) -> list[dict[str, Any]]:
    """Return for each family the context of files that hold several."""
    bare = [family.name for family in families if family.without_bias is not None]
    return [family_context(family, bare) for family in families]


def _imports(contexts: Sequence[dict[str, Any]], target: str) -> list[str]:
    """Return the imports of ``functional.py`` in the order in which ``ruff`` sorts them."""
    homes = {
        f"kernels.{target}.{b['module']}": [b["function_class"], b["function_class"] + "Reverse"]
        for c in contexts
        for b in c["branches"]
    }
    homes["runtime.checks"] = ["check_kappa", "check_operands"]
    centred = ["centred"] if any(c["centres"] for c in contexts) else []
    homes["runtime.rows"] = ["apply", "as_given", "as_rows", *centred]
    return [f"from .{home} import {', '.join(names)}" for home, names in sorted(homes.items())]
