"""The stage ``memory``: the smallest case of every kernel with each access to memory watched.

On a GPU by compute-sanitizer's memcheck, where it works; first it must find an error that is made on purpose. A dry run
has the CUDA kernels on the host watched for undefined behaviour instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verify.gpu.kernels import DRY_SHAPES, SHAPES, backend_and_map, family, files
from verify.gpu.part import Part, Result, Setting

PLANTED = "planted error"
_TYPES, _DRY_TYPES = ("bfloat16", "float32"), ("float32",)


def parts(setting: Setting) -> Sequence[Part]:
    """Return the planted error, then a part for each file of kernels."""
    shapes, types = (DRY_SHAPES, _DRY_TYPES) if setting.dry else (SHAPES, _TYPES)
    found = [Part(PLANTED, {"planted": True}, PLANTED, least=10.0)]
    for file in files():
        backend, name = backend_and_map(file)
        request = {"backend": backend, "map": name, "shape": shapes[family(name)][0], "dtypes": types}
        found.append(Part(f"{backend}/{name}", request, least=10.0))
    return found


def measure(request: Mapping[str, Any], setting: Setting, seconds: float) -> Result:
    """Watch one file's kernels; called in a worker, which starts a process of its own under the tool."""
    from verify.gpu.watched import watch

    return watch(request, setting)
