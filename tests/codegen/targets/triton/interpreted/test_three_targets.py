"""One angle function from a user in three languages: the same numbers, and kernels that nvcc accepts."""

import re
import shutil
import subprocess

import pytest
import torch

from affine_divergence.functional import patch_norm_conv2d
from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.triton.interpreted.targets import Targets, at_angle, operands, relative_error, results
from tests.emitted import file_of
from verify.cuda_on_host import Host

pytestmark = [needs_compiler, pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]

ANGLE = "atan(r)/2"
ROUNDING = 3e-15


def twin(x, W, b, kappa):
    r = x.norm(dim=-1, keepdim=True)
    angle = torch.atan(r) / 2
    return kappa**0.5 * (torch.sin(angle) / r * (x @ W.T) + torch.cos(angle) * b)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = Targets(at_angle(ANGLE), tmp_path_factory.mktemp("made") / "package", patch)
        yield made
        made.forget()


def test_three_targets_and_a_formula_agree(package):
    """Short, long and zero rows; the formula, which has no limit at zero, only where it is defined."""
    tensors, g = operands((9, 24, 20), torch.float64)
    expected = results(package.functions["torch"].angle_like, tensors, g)
    far = [tensors[0].detach()[1:].requires_grad_(), *tensors[1:]]
    by_formula = results(twin, far, g[1:])
    assert relative_error(expected[0][1:], by_formula[0]) < 1e-13
    assert relative_error(expected[1][1:], by_formula[1]) < 1e-10  # the formula loses digits at short rows
    for target, functions in package.functions.items():
        for ours, right in zip(results(functions.angle_like, tensors, g), expected, strict=True):
            assert relative_error(ours, right) <= ROUNDING, target


def test_the_angle_stands_in_every_language(package):
    kernels = (package.place / file_of("cuda", "angle_like.cu")).read_text()
    assert re.search(r"const Wide turn = .*atan\(kept\)", kernels)
    assert re.search(r"const Wide turning = limit > r \? ", kernels)
    tiles = (package.place / file_of("triton", "angle_like.py")).read_text()
    assert re.search(r"turn = .*atan\(kept\)", tiles) and "turning = tl.where(" in tiles


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, the compiler for a GPU")
def test_nvcc_has_nothing_to_say(package):
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "--Werror", "all-warnings", "-DELEMENT=float", "-cubin"]
    source = package.place / file_of("cuda", "angle_like.cu")
    done = subprocess.run([*command, "-o", "/dev/null", str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("form", ["affine-like", "norm-like"])
def test_patches_agree_at_one_geometry(form):
    """All other geometries, types and layouts: see ``test_patches``."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 7, 6), (6, 2, 3, 2), (6,))
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    settings = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2, "form": form, "center": True}
    found = []
    with Host():
        for backend in ("torch", "triton", "cuda"):
            z = patch_norm_conv2d(*tensors, **settings, backend=backend)
            g = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            found.append([z, *torch.autograd.grad(z, tensors, g)])
    for other in found[1:]:
        assert all(relative_error(a, b) < 1e-13 for a, b in zip(found[0], other, strict=True))
