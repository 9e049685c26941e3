"""The stage ``speed``: the layers against torch's, normalisers, compiled forms and other libraries, at target sizes.

There is one part per shape, alone on the machine, measured as in ``affdiv bench``. Before them, parallel processes
build everything at every shape to fill the compilers' caches; that time is not reported. max-autotune comes last, at
the two shapes that a target names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verify.gpu.part import FAIL, PASS, SKIPPED, Part, Result, Setting
from verify.gpu.targets import judged

SHAPES = ("8192x4096x4096", "65536x256x256", "64x256x256x28x3", "64x64x64x56x3", "128x512x512")
DRY_SHAPES = ("64x32x48", "2x4x6x8x3")
SEARCHED = "plain, max-autotune"
_SECONDS, _SEARCH_SECONDS = 6.0, 45.0
NORM = "row-norm prepass"


def parts(setting: Setting) -> Sequence[Part]:
    """Return the parts: builds, then a measurement for each shape, then max-autotune."""
    return list(_dry() if setting.dry else _on_gpu())


def _dry() -> Iterator[Part]:
    for shape in DRY_SHAPES:
        yield Part(shape, {"shape": shape, "dtype": "float32", "quick": True}, "all", alone=True)


def _on_gpu() -> Iterator[Part]:
    for shape in SHAPES:
        yield Part(f"build {shape}", {"shape": shape, "dtype": "bfloat16", "build": True}, most=200.0)
    for shape in SHAPES:
        yield Part(shape, {"shape": shape, "dtype": "bfloat16"}, "all", alone=True, least=_SECONDS + 10.0, most=180.0)
    yield Part(NORM, {"norm": True}, "all", alone=True)
    for shape in SHAPES[:2]:
        request: dict[str, Any] = {"shape": shape, "dtype": "bfloat16", "search": True}
        yield Part(f"{shape}, longest search", request, "all", alone=True, least=_SEARCH_SECONDS, most=300.0)


def measure(request: Mapping[str, Any], setting: Setting, seconds: float) -> Result:
    """Measure one shape, or build it; called in a worker."""
    if request.get("norm"):
        from verify.gpu.row_norm import measure_row_norm

        return {"status": PASS, **measure_row_norm()}
    from verify.bench.shapes import parse_shape
    from verify.bench.speed import Request
    from verify.bench.speed import measure as measured

    build, search = request.get("build", False), request.get("search", False)
    asked = Request(
        (parse_shape(request["shape"]),),
        setting.device,
        request["dtype"],
        seconds=0.0 if build else _SECONDS,
        quick=request.get("quick", False),
        seed=setting.seed,
        only=(SEARCHED,) if search else (),
        without=() if search else (SEARCHED,),
        tolerant=True,
    )
    speed = measured(asked, lambda *_: None).to_json()
    if build:
        return {"status": PASS, "missing": speed["missing"]}
    if search and SEARCHED in speed["missing"]:
        return {"status": SKIPPED, "reason": speed["missing"][SEARCHED]}
    broken = {name: reason for name, reason in speed["missing"].items() if name.startswith("ours") and _raised(reason)}
    if broken:
        return {"status": FAIL, "reason": "; ".join(f"{n}: {r}" for n, r in broken.items()), "speed": speed}
    return {"status": PASS, "speed": speed}


def _raised(reason: str) -> bool:
    """Return whether a provider is missing because it raised, rather than because it is not installed."""
    return reason.partition(":")[0].endswith("Error")


def conclude(results: Mapping[str, Result], setting: Setting) -> dict[str, Any]:
    """Return the ratio of every provider to torch's layer by shape, and the targets; empty for a dry run."""
    if setting.dry:
        return {"note": "dry run at small sizes: its times say nothing about a GPU"}
    ratios: dict[str, dict[str, float]] = {}
    for name, result in results.items():
        for row in result.get("speed", {}).get("rows", []):
            ratios.setdefault(name, {})[row["provider"]] = round(row["ratio"]["both"]["median"], 3)
    return {"ratios": ratios, "targets": judged(results)}
