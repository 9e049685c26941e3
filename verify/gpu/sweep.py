"""The stage ``sweep``: 64 seeds trained as one stack with steps as CUDA graphs, against a plain loop, in each dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verify.gpu.part import FAIL, PASS, Part, Result, Setting

_LEAST_SECONDS = 20.0


def parts(setting: Setting) -> Sequence[Part]:
    """Return a part for each dtype, alone on the machine."""
    if setting.dry:
        return [Part("float32", {"dtype": "float32", "seeds": 2, "rounds": 1, "epochs": 1}, alone=True, most=300.0)]
    request = {"seeds": 64, "rounds": 2, "epochs": 3}
    return [
        Part(dtype, {"dtype": dtype, **request}, alone=True, least=_LEAST_SECONDS) for dtype in ("float32", "float64")
    ]


def measure(request: Mapping[str, Any], setting: Setting, seconds: float) -> Result:
    """Measure one dtype; called in a worker. On a GPU it fails if the speed-up of stacks is below the bound."""
    from verify.bench.sweep import BOUND, Request
    from verify.bench.sweep import measure as measured

    figures = measured(Request(device=setting.device, workers=1, **request))
    ratio = figures["sides"]["together"]["ratio"]
    if setting.dry or ratio >= BOUND:
        return {"status": PASS, "figures": figures}
    reason = f"stacks run {ratio:.2f} times as fast as the plain loop, below the bound {BOUND:g}"
    return {"status": FAIL, "reason": reason, "figures": figures}
