"""Time the pass that computes the scale of each row, against a copy of equally many bytes in the same process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from verify.bench.launch import WARM_UP
from verify.bench.limits import measure_limits

_ROWS, _COLUMNS = 65536, 4096  # 512 MiB in bfloat16: far larger than the cache
_REPEATS = 20


def measure_row_norm() -> dict[str, Any]:
    """Return bytes per second of the Triton kernel ``scale_kernel``, and its share of the copy bandwidth."""
    import triton  # type: ignore[import-untyped]

    from affine_divergence.kernels.triton import affine_like as kernels
    from affine_divergence.kernels.triton.runtime.tiles import row_tiles, wide

    x = torch.randn(_ROWS, _COLUMNS, device="cuda", dtype=torch.bfloat16)
    dtype, WIDE, FLOOR = wide(x.dtype)
    f = x.new_empty(_ROWS, 1, dtype=dtype)
    tiles = row_tiles(_COLUMNS, x.itemsize)
    settings = {"FLOOR": FLOOR, "WIDE": WIDE, "ROWS": tiles.down, "COLUMNS": tiles.across, **tiles.settings}

    def run() -> None:
        kernels.scale_kernel[(triton.cdiv(_ROWS, tiles.down),)](
            x, f, _ROWS, _COLUMNS, *x.stride(), sqrt_kappa=math.sqrt(1.0), **settings
        )

    limits = measure_limits("cuda", torch.bfloat16, quick=False)
    read = x.numel() * x.itemsize / _least_seconds(run)
    return {"bytes_per_s": read, "copy_bytes_per_s": limits.copy_bytes, "copy_share": read / limits.copy_bytes}


def _least_seconds(run: Callable[[], None]) -> float:
    times = []
    for number in range(WARM_UP + _REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if number >= WARM_UP:
            times.append(start.elapsed_time(end) / 1e3)
    return min(times)
