"""The files of PatchNorm: one per map of a convolution, and the functions and modules that choose among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codegen.catalogue import PATCHES, public_names
from codegen.plans.patch_maps import PatchMap
from codegen.printing.naming import BACKEND_WORDS, INIT_WORDS, quoted
from codegen.printing.patch_words import patch_tables, patch_words
from codegen.printing.places import folder_of
from codegen.targets.torch.patch_function import patch_context

MODULES, FUNCTIONS = public_names(PATCHES, "modules"), public_names(PATCHES, "functions")


def patch_contexts(maps: Sequence[PatchMap]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the template and its context for each file."""
    ordered = sorted(maps, key=lambda m: m.module)
    words = {**patch_words(ordered), "init_words": INIT_WORDS, "backend_words": BACKEND_WORDS}
    files: dict[str, tuple[str, Mapping[str, Any]]] = {
        f"{folder_of('torch')}/{m.module}.py": ("patch_function.py", patch_context(m)) for m in ordered
    }
    files["kernels/patch_maps.py"] = ("patch_maps.py", patch_tables(ordered))
    files["patch_functional.py"] = ("patch_functional.py", {**words, "exported": quoted(FUNCTIONS)})
    files["patch_modules.py"] = ("patch_modules.py", {**words, "exported": quoted(MODULES)})
    return files
