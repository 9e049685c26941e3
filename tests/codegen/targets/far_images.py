"""Images near the end of the range beside usual ones, for the kernels of every target that works position by position.

Of three images the first is far, the second near, and the third far in its first half. Weights are so large that
products leave the range; the reference is each map's definition in float64, on patches that are cut out by hand.
"""

import dataclasses

import torch

from tests.codegen.targets.patch_problem import BRAIN, CENTRED, KINDS, PLAIN, SINGLE, TURNED, problem, wide_problem
from tests.codegen.test_far_rows import roundings
from verify.checks.geometry import Geometry

IMAGES, NEAR = 3, 1
SIZES = (1e19, 1e30, 3e38)
SMALL = 1e-6  # gradients, as of a loss that is a mean: times the scale of a far position they are no number of the type
ALLOWED = {SINGLE: 32, BRAIN: 4}
NO_NORMAL = 256  # of what is less than the smallest normal number, which the other tensors' rounding is relative to
CASES = [(kind, axes) for kind in KINDS for axes in (1, 2, 3)]
SOME = [(KINDS[0], 2), (KINDS[4], 1), (KINDS[8], 2)]  # each form once, and each kind: plain, centred, transposed
assert [kind[2] for kind, _ in SOME] == [PLAIN, CENTRED, TURNED]


def far_problem(kind, axes, seed=0):
    """Return a map at a geometry with groups, strides, padding and dilation."""
    found = problem(*kind, axes, seed, channels=5, outputs=3)
    return dataclasses.replace(found, geometry=dataclasses.replace(found.geometry, length=(7, 6, 5)[:axes]))


def operands(case, size, dtype=SINGLE, layout=None):
    """Return the input and the parameters, and a gradient with respect to the output."""
    tensors, g = case.operands(batch=IMAGES, layout=layout)
    x = tensors[0].detach()
    far = size * x.sign() * (torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype) + 1) / 2
    half = x.shape[2] // 2
    x[0] = far[0]
    x[2, :, :half] = far[2, :, :half]
    values = [x, 10 * tensors[1].detach(), *(t.detach() for t in tensors[2:])]
    return [t.to(dtype).requires_grad_() for t in values], (SMALL * g).to(dtype)


def assert_right(mine, exact, dtype=SINGLE):
    """Hold the output and the gradients against the exact ones, the output and that of the input image by image."""
    assert all(t.isfinite().all() for t in mine)
    for ours, right in zip(mine[2:], exact[2:], strict=True):
        assert roundings(ours, right) <= ALLOWED[dtype]
    for k, (ours, right) in enumerate(zip(mine[:2], exact[:2], strict=True)):
        for image in range(IMAGES):
            is_normal = k == 0 or image == NEAR or right[image].abs().max() > torch.finfo(dtype).tiny
            assert roundings(ours[image], right[image]) <= (ALLOWED[dtype] if is_normal else NO_NORMAL), (k, image)


def check(case, size, backend, dtype=SINGLE, layout=None, **more):
    """Hold a map at far images against its definition."""
    tensors, g = operands(case, size, dtype, layout)
    assert_right(case.results(tensors, g, backend=backend, **more), case.exact(tensors, g), dtype)


def check_bits(case, backend, **more):
    """Hold that no bit of the near image depends on whether others are far."""
    tensors, g = operands(case, 1e38)
    before = case.results(tensors, g, backend=backend, **more)
    with torch.no_grad():
        tensors[0][0], tensors[0][2] = 1.0, -1.0
    after = case.results(tensors, g, backend=backend, **more)
    for one, two in zip(before[:2], after[:2], strict=True):
        assert torch.equal(one[NEAR].view(torch.int32), two[NEAR].view(torch.int32))


def large_problem():
    """Return a map of more channels and positions than a kernel takes at once."""
    return dataclasses.replace(
        wide_problem(*KINDS[0], 2, 1),
        geometry=Geometry(1, 40, 36, (3, 2), (1, 1), (1, 1), (1, 1), (9, 8), (0, 0)),
    )


def check_compiled(case, backend):
    """Hold one graph, without breaks, to the definition."""
    torch.compiler.reset()
    call = lambda *t: case.function(*t, **case.settings, backend=backend)  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    tensors, g = operands(case, SIZES[-1])
    z = compiled(*tensors)
    assert_right([z.detach(), *torch.autograd.grad(z, tensors, g)], case.exact(tensors, g))


def check_modes(case, backend):
    """Hold forward mode, a map over images and a gradient of a gradient to torch's operations in float64."""
    given, _ = operands(case, 1e38)
    plain = [t.detach() for t in given]
    double = [t.double() for t in plain]
    moved = [torch.randn(t.shape, generator=torch.Generator().manual_seed(2)) for t in plain]

    def call(*tensors):
        return case.function(*tensors, **case.settings, backend=backend if tensors[0].dtype == SINGLE else "torch")

    ours = torch.func.jvp(call, tuple(plain), tuple(moved))[1]
    exact = torch.func.jvp(call, tuple(double), tuple(t.double() for t in moved))[1]
    assert roundings(ours, exact) <= 40  # terms that cancel
    by_image = torch.vmap(lambda x, *t: call(x[None], *t)[0], (0, *[None] * (len(plain) - 1)))(*plain)
    assert roundings(by_image, call(*double)) <= 32
    second = []
    for tensors in (given, [t.requires_grad_() for t in double]):
        (first,) = torch.autograd.grad(call(*tensors).square().sum(), tensors[1], create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), tensors[1])[0])
    assert roundings(*second) <= 40
