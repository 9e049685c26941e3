"""Mutants of PatchNorm's CUDA kernels: each must differ from the reference by patches."""

from pathlib import Path

import pytest
import torch

import affine_divergence
from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.patch_problem import CENTRED, Problem, error
from tests.emitted import file_of, shared_by
from verify.checks.geometry import Geometry
from verify.cuda_on_host import Host

pytestmark = needs_compiler

CASE = Problem(
    "affine-like",
    True,
    CENTRED,
    Geometry(2, 11, 10, kernel=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), length=(7, 6), extra=(0, 0)),
)
MUTANTS = {  # a text of the kernels, and its replacement
    "one dropped under the root": ("sqrt(1 + E)", "sqrt(E)"),
    "kappa without its root": ("sqrt(kappa)", "kappa"),
    "scale squared": ("const Wide z = f * h;", "const Wide z = f * f * h;"),
    "bias left out": ("h = b + xW - m * W_sum;", "h = 0 * b + xW - m * W_sum;"),
    "mean added": ("h = b + xW - m * W_sum;", "h = b + xW + m * W_sum;"),
    "mean left in the energy": ("E_total - patch_entries * (m * m)", "E_total - 0 * patch_entries * (m * m)"),
    "sum of entries, not of squares": ("xx_total += x * x;", "xx_total += x;"),
    "mean of a larger patch": ("x_sum_sum / patch_entries", "x_sum_sum / (patch_entries + 1)"),
    "sign of the row term": ("dE = -(f * f * f)", "dE = f * f * f"),
    "one of three scales dropped": ("dE = -(f * f * f)", "dE = -(f * f)"),
    "row term not divided by kappa": ("/ (2 * kappa)", "/ 2"),
    "sign of the mean's gradient": ("dm = -2 *", "dm = 2 *"),
    "weights left out of the mean's gradient": ("* m - dh_W_sum", "* m"),
    "mean's gradient left out of dx": ("dx_sum + 2 * dxx * x", "0 * dx_sum + 2 * dxx * x"),
    "factor of two": ("2 * dxx * x", "dxx * x"),
    "box in the place of its transpose": ("dxx = over_patch<Spread>", "dxx = over_patch<Box>"),
    "dilation dropped": ("entry * axis.dilation - axis.padding", "entry - axis.padding"),
    "dilation dropped on the way back": ("axis.padding - entry * axis.dilation", "axis.padding - entry"),
    "padding dropped": ("entry * axis.dilation - axis.padding", "entry * axis.dilation"),
    "padding dropped on the way back": ("place + axis.padding", "place"),
    "stride dropped": ("position * axis.stride + entry", "position + entry"),
    "places between positions": ("position * axis.stride == reach && position", "position"),
    "wrong axis": ("Way::meets(second, down, j)", "Way::meets(second, 0 * down + across, j)"),
    "beyond the edge": ("place >= 0 && place < axis.there", "place >= 0 && place <= axis.there"),
    "entries of the kernel counted twice": ("k += blockDim.x) {\n        for", "k += 1) {\n        for"),
    "another image's map": ("block * first.there + a", "0 * block + a"),
    "group left out": ("group * g_group", "0 * g_group"),
    "image left out": ("image * x_image", "0 * x_image"),
    "last channel left out": ("if (start + k >= channels) break;", "if (start + k + 1 >= channels) break;"),
    "channels side by side that are apart": (
        "if (apart == 1 && whole_chunk(place, start, channels)) return",
        "if (whole_chunk(place, start, channels)) return",
    ),
    "half of the threads not added": ("int(blockDim.x) / 2; distance > 0;", "int(blockDim.x) / 2; distance > 1;"),
}
ALWAYS = {"dilation dropped", "scale squared", "half of the threads not added"}
HERE = Path(affine_divergence.__file__).parent


@pytest.fixture
def host():
    with Host(watched=False) as made:
        yield made


def departs():
    """Whether kernels differ from the reference, with strided and contiguous channels."""
    for layout in (None, torch.channels_last):
        tensors, g = CASE.operands(layout=layout)
        tensors[0] = (tensors[0].detach() * 0.1).requires_grad_()  # so short that the 1 under the root matters
        exact = CASE.exact(tensors, g)
        for more in ({}, {"recompute": False}):
            ours = CASE.results(tensors, g, backend="cuda", **more)
            if any(not error(a, b) <= 1e-12 for a, b in zip(ours, exact, strict=True)):
                return True
    return False


def test_the_original_does_not_depart(host):
    assert not departs()


@pytest.mark.filterwarnings("ignore:.*")  # a mutant may write anything
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ALWAYS)) for n in MUTANTS])
def test_a_mutant_is_killed(host, name):
    sources = [
        (HERE / f).read_text()
        for f in (file_of("cuda", "patch_affine_like_centred.cu"), shared_by("cuda", "patches.cuh"))
    ]
    assert any(MUTANTS[name][0] in text for text in sources), "the line to mutate is gone; update the mutant"
    host.replacements = (MUTANTS[name],)
    assert departs()
