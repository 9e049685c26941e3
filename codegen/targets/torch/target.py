"""The files of the torch target: from plans to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codegen.printing.angle_function import angle_context, radius_context
from codegen.printing.naming import BACKEND_WORDS, INIT_WORDS, AngleFamily, Family, family_context, quoted
from codegen.printing.places import folder, folders, in_folder, placed, shared_runtime
from codegen.targets.torch.companions import companions
from codegen.targets.torch.function_file import function_context
from codegen.targets.torch.render import render


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its path in the package."""
    maps: dict[str, str] = {}
    for angle in angles:
        context = angle_context(angle.with_bias)
        maps[f"{context['module']}.py"] = render("angle_function.py.jinja", context)
        maps["radius.py"] = render("radius.py.jinja", radius_context())
    for family in families:
        for plan in family.plans:
            context = function_context(plan, with_bias=plan is family.with_bias)
            maps[f"{context['module']}.py"] = render("function.py.jinja", context)
    shared, more = _shared([*families, *angles]), companions(families)
    result = {"functional.py": functions_text([*families, *angles], more.functions, dispatches=True)}
    choices = {"init_words": INIT_WORDS, "backend_words": BACKEND_WORDS}
    result["modules.py"] = render("modules.py.jinja", {**shared, **choices, "exported": quoted(shared["modules"])})
    for path, known in more.contexts.items():
        result[path] = render(f"{more.templates.get(path, Path(path).name)}.jinja", dict(known))
    public = sorted([*shared["modules"], "functional", *(name for export in more.exports for name in export.names)])
    result["__init__.py"] = render("__init__.py.jinja", {**shared, "more": more.exports, "exported": quoted(public)})
    result["py.typed"] = ""
    shared_files = shared_runtime("operands.py", "rows.py", "checks.py", "backends.py", *more.runtime)
    return placed(result) | in_folder("torch", maps) | torch_folder() | shared_files


def torch_folder() -> dict[str, str]:
    """Return what says of the folders of kernels what they hold."""
    return folders() | folder("torch", "The maps in torch's operations")


def functions_text(
    families: Sequence[Family | AngleFamily],
    borrowed: Mapping[str, Sequence[str]] | None = None,
    dispatches: bool = False,
) -> str:
    """Return the text of ``functional.py``; ``borrowed`` are names that it takes from other files, by the file.

    With ``dispatches`` its functions choose their backend, else they are those of the files that it imports.
    """
    shared, more = _shared(families), dict(borrowed or {})
    if dispatches:
        shared["imports"] = sorted([*shared["imports"], "from .runtime.backends import at_once, chosen"])
    functions = [*(c["function"] for c in shared["families"]), *(name for names in more.values() for name in names)]
    context = {**shared, "borrowed": more, "exported": quoted(sorted(functions))}
    context |= {"dispatches": dispatches, "backend_words": BACKEND_WORDS}
    return render("functional.py.jinja", context)


def _shared(families: Sequence[Family | AngleFamily]) -> dict[str, Any]:
    """Return what the files that hold several families need."""
    bare = [family.name for family in families if family.without_bias is not None]
    contexts = [family_context(family, bare) for family in families]
    return {
        "families": contexts,
        "imports": _imports(contexts),
        "modules": sorted(c["module_class"] for c in contexts),
    }


def _imports(contexts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the imports of ``functional.py`` in the order in which ``ruff`` sorts them."""
    homes = {
        f"kernels.torch.{b['module']}": [b["function_class"], b["function_class"] + "Reverse"]
        for c in contexts
        for b in c["branches"]
    }
    homes["runtime.checks"] = ["check_kappa", "check_operands"]
    homes["runtime.rows"] = [
        "apply",
        "as_given",
        "as_rows",
        *(["centred"] if any(c["centres"] for c in contexts) else []),
    ]
    return [f"from .{home} import {', '.join(names)}" for home, names in sorted(homes.items())]
