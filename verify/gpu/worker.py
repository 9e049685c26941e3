"""A worker process: measures the parts that arrive on standard input, as one line of JSON each.

Output of a part goes to standard error; standard output carries the results. A part that raises fails, and the worker
continues unless the GPU no longer responds. If the parent program ends, the worker ends at once, with its child
processes.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from verify.gpu.part import FAIL, Setting


def main(arguments: list[str]) -> int:
    """Answer every order with a result until the input ends."""
    setting = Setting(**json.loads(arguments[0]))
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which ends its workers
    for order in _orders():
        result = attempt(order, setting)
        print(json.dumps(plain(result), allow_nan=False), file=results, flush=True)
        if result.get("lost"):
            return 1
    return 0


def _orders() -> Iterator[dict[str, Any]]:
    """Yield orders as they arrive; if the input ends during a part, end the whole process group."""
    waiting: queue.Queue[str] = queue.Queue()
    busy = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            waiting.put(line)
        if busy.is_set():
            os.killpg(0, signal.SIGKILL)
        waiting.put("")

    threading.Thread(target=listen, daemon=True).start()
    while line := waiting.get():
        busy.set()
        yield json.loads(line)
        busy.clear()


def attempt(order: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """Return the result of a part; an exception becomes a failure, with ``lost`` if the GPU no longer responds."""
    try:
        module = importlib.import_module(order["module"])
        result: dict[str, Any] = module.measure(order["request"], setting, order["seconds"])
        return result
    except Exception as problem:
        traceback.print_exc()
        lines = str(problem).strip().splitlines() or [""]
        reason = f"{type(problem).__name__}: {lines[0]}"
        return {"status": FAIL, "reason": reason, "lost": not setting.dry and not _answers()}


def _answers() -> bool:
    """Return whether the GPU still works; after a fault every later call in the process fails."""
    import torch

    try:
        torch.cuda.synchronize()
        return bool(torch.ones(2, device="cuda").sum().item() == 2)
    except Exception:
        return False


def plain(value: Any) -> Any:
    """Return a result that JSON can hold: NaN and infinity become text."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
