"""Mutants of the emitted sources: each must differ from the theory, or its threads must never end."""

import pytest
import torch

from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.cuda.test_host import DOUBLE, both, error, operands
from tests.emitted import file_of, shared_by
from verify.cuda_on_host import HostError

pytestmark = needs_compiler

MUTANTS = {
    "sign of the row term": ("f * gW[k] - c * u", "f * gW[k] + c * u"),
    "one more of f": ("const Wide u = f * x[k];", "const Wide u = f * f * x[k];"),
    "one dropped under the root": ("sqrt(q + Wide(1) / (peak * peak))", "sqrt(q)"),
    "bias outside the scale": ("f * (b[k] + xW[k])", "f * xW[k] + b[k]"),
    "bias left out of the row term": ("f * (f * gb + u_gW) / kappa", "f * u_gW / kappa"),
    "scale left out of db": ("sum += f * g;", "sum += g + 0 * f;"),
    "row stride of another tensor": ("g_data + row * g_stride", "g_data + row * x_stride"),
    "last entry of a row left out": ("if (start + k >= n) break;", "if (start + k + 1 >= n) break;"),
    "a chunk of rows counted twice": ("const Offset first = chunk * blockIdx.y;", "const Offset first = 0;"),
    "one row a chunk left out": ("row < last && column", "row + 1 < last && column"),
    "half of the lanes not added": ("distance > 0; distance /= 2", "distance > 1; distance /= 2"),
    "one warp not added": ("int warp = 1; warp < blockDim.x", "int warp = 2; warp < blockDim.x"),
    "warps read before they are written": ("    __syncthreads();\n    value = warps[0];", "    value = warps[0];"),
    "one line of a block not added": ("int line = 1; line < blockDim.y", "int line = 2; line < blockDim.y"),
    "columns of a row read twice": ("start += V * blockDim.x", "start += V"),
    "rounding to even lost": ("+ 0x7fffu + ((bits >> 16) & 1u)", ""),
}


def departs(host):
    """Whether kernels differ from the theory: rows of one warp, rows of one block, columns of several chunks."""
    for dtype, shape in ((DOUBLE, (600, 19, 13)), (DOUBLE, (2, 1100, 1030)), (torch.bfloat16, (9, 64, 48))):
        inputs = operands("affine_like", shape, dtype)
        inputs[0] = (inputs[0].detach() * 0.4).requires_grad_()  # so short that the 1 under the root matters
        g = torch.randn(shape[0], shape[2], dtype=DOUBLE).to(dtype)
        bound = 1e-12 if dtype == DOUBLE else 3e-3
        if any(not error(a, b) <= bound for a, b in zip(*both(host, "affine_like", inputs, g), strict=True)):
            return True
    return False


def test_the_original_does_not_depart(host):
    assert not departs(host)


ALWAYS = {"sign of the row term", "warps read before they are written"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ALWAYS)) for n in MUTANTS])
def test_a_mutant_is_killed(host, name, texts):
    sources = texts[file_of("cuda", "affine_like.cu")] + texts[shared_by("cuda", "rows.cuh")]
    assert MUTANTS[name][0] in sources, "the line to mutate is gone; update the mutant"
    host.replacements = (MUTANTS[name],)
    try:
        assert departs(host)
    except HostError as problem:
        if "wait for each other" not in str(problem):
            raise
