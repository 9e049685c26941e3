"""The stage ``kernels``: check every generated GPU kernel, forward and backward, against float64, and record it.

Each kernel file runs at three shapes in every dtype, each result twice; then captured in a CUDA graph, on another
stream, with more than 2^31 numbers, and with inputs whose squares overflow or underflow. Attention runs as a whole
module. A kernel passes if the error of each result is at most twice that of torch's own operations in the same dtype,
and a second run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codegen.targets.base import KERNELS
from derive.export.kernels import kernel_digests
from derive.export.summary import generated_manifest
from verify.gpu.part import FAIL, PASS, Part, Result, Setting

TYPES = ("bfloat16", "float32", "float16", "float64")
DRY_TYPES = ("bfloat16", "float32")
ROWS, PATCHES, UNIT, ATTENTION = "rows", "patches", "unit", "attention"
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    ROWS: ((257, 200, 150), (4096, 256, 256), (1024, 2048, 1536)),  # rows, inputs, outputs
    PATCHES: ((3, 2, 19, 21, 15), (8, 1, 64, 64, 32), (4, 1, 256, 256, 14)),  # images, groups, channels, outputs, side
    UNIT: ((2, 3, 70, 50, 19), (4, 16, 512, 512, 64), (2, 2, 33, 9, 1030)),  # N, H, L, S, d
    ATTENTION: ((2, 7, 64, 2), (8, 256, 256, 4), (4, 512, 768, 12)),  # batch, tokens, width, heads
}
DRY_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    ROWS: ((5, 19, 13), (9, 32, 16), (3, 600, 20)),
    PATCHES: ((2, 2, 3, 2, 5), (1, 1, 4, 4, 4), (1, 1, 5, 3, 6)),
    UNIT: ((2, 3, 7, 5, 8), (1, 1, 1, 1, 64), (1, 2, 4, 3, 300)),
    ATTENTION: ((2, 3, 8, 2), (1, 4, 12, 3), (1, 2, 16, 1)),
}
LONG = (2**25 + 128, 64, 16)  # more numbers than signed 32 bits can index, and more blocks than 16 bits can
MAGNITUDES = (("float32", 1e30), ("bfloat16", 1e30), ("float32", 1e-30), ("float16", 1e4))
_ATTENTION_SETTINGS = ("module", "qk-norm", "value-path")


def files() -> dict[str, str]:
    """Return the digest of every file of GPU kernels of the generated package."""
    return kernel_digests(generated_manifest()["files"])


def backend_and_map(file: str) -> tuple[str, str]:
    """Return the backend and the map of a file such as ``kernels/triton/affine_like.py``."""
    path = Path(file)
    return path.parent.name, path.stem


def family(name: str) -> str:
    """Return the family of layers that a map belongs to."""
    return UNIT if name == "unit" else PATCHES if name.startswith("patch_") else ROWS


def parts(setting: Setting) -> Sequence[Part]:
    """Return a part for each file, dtype and shape, grouped by file and dtype; attention last."""
    return [*_of_files(setting), *_of_attention(setting)]


def _of_files(setting: Setting) -> Iterator[Part]:
    types, shapes = (DRY_TYPES, DRY_SHAPES) if setting.dry else (TYPES, SHAPES)
    for dtype in types:
        for file in files():
            backend, name = backend_and_map(file)
            kind, group = family(name), f"{backend}/{name}/{dtype}"
            common = {"backend": backend, "map": name, "dtype": dtype}
            for shape in _shapes(kind, dtype, setting):
                yield Part(f"{group}/{_text(shape)}", {**common, "shape": shape}, group)
            if dtype == types[0] and not setting.dry:
                for check in ("graph", "stream"):
                    yield Part(f"{group}/{check}", {**common, "shape": shapes[kind][1], "check": check}, group)
                if kind == ROWS:
                    yield Part(f"{group}/2^31 numbers", {**common, "shape": LONG, "check": "long"}, group)
            for of, size in MAGNITUDES:
                if of == dtype and kind != PATCHES:
                    yield Part(f"{group}/times {size:g}", {**common, "shape": shapes[kind][0], "size": size}, group)


def _of_attention(setting: Setting) -> Iterator[Part]:
    types = DRY_TYPES if setting.dry else TYPES
    for backend in (target.name for target in KERNELS if target.device == "cuda"):
        for dtype in types:
            group = f"{backend}/attention/{dtype}"
            for variant in _ATTENTION_SETTINGS:
                for shape in _shapes(ATTENTION, dtype, setting):
                    request = {"backend": backend, "map": ATTENTION, "dtype": dtype, "shape": shape, "variant": variant}
                    yield Part(f"{group}/{variant}/{_text(shape)}", request, group)


def _shapes(kind: str, dtype: str, setting: Setting) -> Sequence[tuple[int, ...]]:
    """Return the shapes for a dtype: all on a GPU; a dry run alternates shapes between dtypes."""
    return DRY_SHAPES[kind][DRY_TYPES.index(dtype) :: len(DRY_TYPES)] if setting.dry else SHAPES[kind]


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def measure(request: Mapping[str, Any], setting: Setting, seconds: float) -> Result:
    """Measure one case; called in a worker."""
    from verify.gpu.kernel_errors import measure_case

    return measure_case(request, setting)


def conclude(results: Mapping[str, Result], setting: Setting) -> dict[str, Any]:
    """Return for each file whether it passes, with its largest error in each dtype."""
    return {"kernels": {file: _judged(file, digest, results, setting) for file, digest in files().items()}}


def finish(figures: Mapping[str, Any], setting: Setting) -> None:
    """Write the record of the kernels that pass; a dry run writes none."""
    from verify.gpu.record import write

    if not setting.dry:
        write(figures["kernels"], setting)


def _judged(file: str, digest: str, results: Mapping[str, Result], setting: Setting) -> dict[str, Any]:
    """Return the judgement of a file: it ``holds`` if all its parts have passed."""
    prefix = "/".join(backend_and_map(file)) + "/"
    own = [results.get(part.name) for part in _of_files(setting) if part.name.startswith(prefix)]
    errors: dict[str, float] = {}
    for name, result in results.items():
        if name.startswith(prefix) and isinstance(result.get("error"), float):
            dtype = name.split("/")[2]
            errors[dtype] = max(errors.get(dtype, 0.0), result["error"])
    return {
        "digest": digest,
        "errors": errors,
        "holds": all(result is not None and result["status"] == PASS for result in own),
        "failed": sum(result is not None and result["status"] == FAIL for result in own),
    }
