"""The stage ``memory``: the smallest case of every kernel, with every memory access checked.

On a GPU compute-sanitizer's memcheck does this, if it works; it must first find a planted error. A dry run instead runs
the CUDA kernels on the host under the undefined-behaviour sanitizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verify.gpu.kernels import DRY_SHAPES, SHAPES, backend_and_map, family, files
from verify.gpu.part import Part, Result, Setting

PLANTED = "planted error"
_TYPES, _DRY_TYPES = ("bfloat16", "float32"), ("float32",)


def parts(setting: Setting) -> Sequence[Part]:
    """Return the planted error, then a part for each kernel file."""
    shapes, types = (DRY_SHAPES, _DRY_TYPES) if setting.dry else (SHAPES, _TYPES)
    found = [Part(PLANTED, {"planted": True}, PLANTED, least=10.0)]
    for file in files():
        backend, name = backend_and_map(file)
        request = {"backend": backend, "map": name, "shape": shapes[family(name)][0], "dtypes": types}
        found.append(Part(f"{backend}/{name}", request, least=10.0))
    return found


def measure(request: Mapping[str, Any], setting: Setting, seconds: float) -> Result:
    """Check one file's kernels; called in a worker, which starts another process under the tool."""
    from verify.gpu.watched import watch

    return watch(request, setting)
