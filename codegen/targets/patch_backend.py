"""The functions of PatchNorm with their maps taken from the files of another target than torch.

Maps of centred patches are torch's in every target: their energy is a difference of sums, of which rounding may leave
nothing, and torch has the rule for that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from codegen.targets.torch import target as torch_target
from codegen.targets.torch.companions import has_companions
from codegen.targets.torch.patch_family import PatchMap
from codegen.targets.torch.patch_files import FUNCTIONS, patch_maps, patch_tables, patch_words
from codegen.targets.torch.words import Family, quoted


def maps_with_kernels(families: Sequence[Family]) -> tuple[PatchMap, ...]:
    """Return the maps of convolutions that have kernels, in a package of these families."""
    if not has_companions(families):
        return ()
    return tuple(sorted((m for m in patch_maps() if not m.centred), key=lambda m: m.module))


def patch_files(target: str, chosen: Sequence[PatchMap]) -> dict[str, str]:
    """Return the table of maps and the functions of a target, whose own files hold the ``chosen`` maps."""
    if not chosen:
        return {}
    ordered = sorted(patch_maps(), key=lambda m: m.module)
    table = torch_target.render("_patch_maps.py.jinja", patch_tables(ordered))
    for m in chosen:
        both = f"    from .{m.module} import {m.function_class} as eager, {m.function_class}Reverse as traced\n"
        own = f"    from ._{target}{m.module} import {m.function_class} as eager\n"
        assert both in table
        table = table.replace(both, f"{own}    from .{m.module} import {m.function_class}Reverse as traced\n")
    words = {**patch_words(ordered), "exported": quoted(FUNCTIONS)}
    functions = torch_target.render("_patch_functional.py.jinja", words)
    functions = functions.replace("from ._patch_maps import", f"from ._{target}_patch_maps import")
    functions = functions.replace('"""PatchNorm as functions of tensors', f'"""PatchNorm by {target} kernels', 1)
    return {f"_{target}_patch_maps.py": table, f"_{target}_patch_functional.py": _sorted_imports(functions)}


def borrowed_functions(target: str, chosen: Sequence[PatchMap]) -> dict[str, tuple[str, ...]]:
    """Return the public names that a target's functions take from its file of PatchNorm."""
    return {f"_{target}_patch_functional": FUNCTIONS} if chosen else {}


def _sorted_imports(text: str) -> str:
    found = re.search(r"(?:^from \..*\n)+", text, re.MULTILINE)
    assert found is not None
    return text.replace(found[0], "".join(sorted(found[0].splitlines(keepends=True))))
