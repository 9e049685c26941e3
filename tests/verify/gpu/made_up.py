"""Stages for tests, whose parts behave as their requests prescribe; a worker imports this module by name."""

import os
import time
from pathlib import Path

from verify.gpu.part import PASS, Part, Stage, nothing_more

MODULE = "tests.verify.gpu.made_up"


def measure(request, setting, seconds):
    """Record the start of the part, then behave as the request prescribes."""
    if "note" in request:
        with Path(setting.folder, "begun").open("a") as file:
            file.write(request["note"] + "\n")
    time.sleep(request.get("sleep", 0.0))
    if request.get("raise"):
        raise ValueError(request["raise"])
    if request.get("kill"):
        os.kill(os.getpid(), 9)
    return {"status": PASS, "process": os.getpid(), "error": request.get("error", 0.0)}


def stage(*parts, name="kernels", seconds=60.0):
    return Stage(name, seconds, MODULE, lambda _: parts, nothing_more)


def part(name, **request):
    own = {key: request.pop(key) for key in ("group", "alone", "least", "most") if key in request}
    return Part(name, {"note": name, **request}, **own)
