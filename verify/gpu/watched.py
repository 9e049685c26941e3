"""Run one file's kernels in a separate process, under a tool that checks memory accesses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from verify.gpu.part import FAIL, PASS, SKIPPED, Result, Setting

TOOL = "compute-sanitizer"
_PLACES = ("/usr/local/cuda/bin", "/opt/nvidia/compute-sanitizer")
_ERRORS = re.compile(r"ERROR SUMMARY: (\d+) error")
_COMPLAINT = re.compile(r"^=+ (?!COMPUTE-SANITIZER|ERROR SUMMARY)(\S.*)", re.MULTILINE)


def watch(request: Mapping[str, Any], setting: Setting) -> Result:
    """Return whether the kernels access only their own memory; skipped if no tool works here."""
    if setting.dry:
        return _on_host(request, setting)
    tool = find_tool()
    if not tool:
        return {"status": SKIPPED, "reason": f"{TOOL} is not installed"}
    command = [tool, "--tool", "memcheck", "--error-exitcode", "1"]
    # torch's caching allocator would hide an access beyond a tensor but inside its block
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = run(command, request, setting, environment)
    return judged(done.stdout + done.stderr, done.returncode, planted=bool(request.get("planted")))


def find_tool() -> str | None:
    """Return the path of compute-sanitizer, None if it is not installed."""
    return shutil.which(TOOL) or next((p for d in _PLACES if (p := shutil.which(TOOL, path=d))), None)


def run(
    command: list[str], request: Mapping[str, Any], setting: Setting, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the cases of a request in a separate process, under a command."""
    own = [sys.executable, "-m", "verify.gpu.watched", json.dumps(dict(request)), setting.to_json()]
    done = subprocess.run([*command, *own], capture_output=True, text=True, env=environment)
    print(done.stdout, done.stderr, sep="")  # into the log
    return done


def judged(output: str, code: int, planted: bool) -> Result:
    """Return what the output of memcheck says; a missing summary means that the tool does not work here."""
    counted = _ERRORS.search(output)
    if counted is None or "Device not supported" in output:
        last = (_COMPLAINT.findall(output) or output.strip().splitlines() or ["no message"])[-1]
        return {"status": SKIPPED, "reason": f"{TOOL} does not work here: {last.strip()[:200]}"}
    errors = int(counted[1])
    if planted:
        reason = {} if errors else {"reason": f"{TOOL} missed a planted access beyond the end of a tensor"}
        return {"status": PASS if errors else FAIL, "errors": errors, **reason}
    if errors:
        return {"status": FAIL, "errors": errors, "reason": (_COMPLAINT.findall(output) or ["see the log"])[0][:200]}
    if code:
        return {"status": FAIL, "errors": 0, "reason": (output.strip().splitlines() or [f"code {code}"])[-1][:200]}
    return {"status": PASS, "errors": 0}


def _on_host(request: Mapping[str, Any], setting: Setting) -> Result:
    from verify.gpu.kernel_errors import lacking

    if request.get("planted"):
        return {"status": SKIPPED, "reason": f"{TOOL} needs a GPU; a dry run has none"}
    if request["backend"] != "cuda":
        return {"status": SKIPPED, "reason": "Triton's interpreter makes no memory accesses that a tool could check"}
    missing = lacking("cuda", setting)
    if missing:
        return {"status": SKIPPED, "reason": missing}
    done = run([], request, setting, dict(os.environ))
    found = [line for line in done.stderr.splitlines() if "runtime error" in line]
    if found or done.returncode:
        last = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        return {"status": FAIL, "reason": (found or [last])[0][:200]}
    return {"status": PASS, "by": "undefined-behaviour sanitizer of g++"}


def main(arguments: list[str]) -> int:
    """Run the cases of a request; the caller runs this process under a tool."""
    from contextlib import nullcontext

    import torch

    from verify.cuda_on_host import Host

    request, setting = json.loads(arguments[0]), Setting(**json.loads(arguments[1]))
    if request.get("planted"):
        _beyond_the_end()
        return 0
    from verify.gpu.kernel_cases import case_of

    with Host() if setting.dry else nullcontext():
        for dtype in request["dtypes"]:
            case_of(request, getattr(torch, dtype), setting).results(request["backend"])
    if not setting.dry:
        torch.cuda.synchronize()
    return 0


def _beyond_the_end() -> None:
    """Write far beyond the end of a tensor, on purpose."""
    import torch
    from torch.cuda import _compile_kernel

    kernel: Any = _compile_kernel('extern "C" __global__ void beyond(float* x) { x[1 << 20] = 1.0f; }', "beyond")
    kernel(grid=(1, 1, 1), block=(1, 1, 1), args=(torch.zeros(4, device="cuda"),))
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
