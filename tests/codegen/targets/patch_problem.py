"""Maps of PatchNorm at a geometry: by the public functions, and by a reference that cuts out patches."""

import dataclasses
import functools
import importlib
import math

import torch

from affine_divergence import functional
from affine_divergence.runtime.operators import LIBRARY
from affine_divergence.runtime.patch_places import as_numbers
from affine_divergence.runtime.patches import Geometry, split
from verify.checks import references
from verify.checks.cases import Draw
from verify.checks.geometry import draw_geometry

KAPPA = 1.7
DOUBLE, SINGLE, HALF, BRAIN = torch.float64, torch.float32, torch.float16, torch.bfloat16
FORMS = [("affine-like", True), ("norm-like", True), ("norm-like", False)]
PLAIN, CENTRED, TURNED = "", "_centred", "_transposed"
KINDS = [(form, bias, kind) for form, bias in FORMS for kind in (PLAIN, CENTRED, TURNED)]


def map_name(form, bias, kind):
    """The stem of the files of a map."""
    return f"patch_{form.replace('-', '_')}{kind}{'' if bias else '_without_bias'}"


@dataclasses.dataclass(frozen=True)
class Problem:
    """A map at a geometry; its tensors are the public function's."""

    form: str
    bias: bool
    kind: str
    geometry: object

    @property
    def settings(self):
        g = self.geometry
        known = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
        known |= {"output_padding": g.extra} if g.transposed else {"center": self.kind == CENTRED}
        return {**known, "form": self.form, "kappa": KAPPA}

    @property
    def function(self):
        axes = len(self.geometry.kernel)
        return getattr(functional, f"patch_norm_conv{'_transpose' if self.geometry.transposed else ''}{axes}d")

    def operands(self, dtype=DOUBLE, layout=None, seed=0, batch=2):
        """Return the input and the parameters, and a gradient with respect to the output."""
        g, generator = self.geometry, torch.Generator().manual_seed(seed)
        channels = (g.groups * g.channels, g.outputs) if g.transposed else (g.groups * g.outputs, g.channels)
        shapes = [(batch, g.groups * g.channels, *g.length), (*channels, *g.kernel)]
        shapes += [(g.groups * g.outputs,)] * self.bias + [(batch, g.groups * g.outputs, *g.positions)]
        *tensors, cotangent = (torch.randn(s, generator=generator, dtype=DOUBLE).to(dtype) for s in shapes)
        if layout is not None:
            tensors[0], cotangent = (t.contiguous(memory_format=layout) for t in (tensors[0], cotangent))
        return [t.requires_grad_() for t in tensors], cotangent

    def results(self, tensors, cotangent, **more):
        """Return the output and the gradients of the public function."""
        z = self.function(*tensors, *[None] * (not self.bias), **self.settings, **more)
        return [t.detach() for t in (z, *torch.autograd.grad(z, tensors, cotangent))]

    def exact(self, tensors, cotangent):
        """Return the same by patches cut out of the image, in float64."""
        x, W, *b = exact = [t.detach().double().requires_grad_() for t in tensors]
        g = self.geometry
        image = x.reshape(len(x), g.groups, g.channels, *g.length)
        rows = (g.channels, g.outputs) if g.transposed else (g.outputs, g.channels)
        kernel = W.reshape(g.groups, *rows, *g.kernel)
        if g.transposed:  # position q gets input from (q - dilation k) / stride: the filter is reversed
            kernel = kernel.flip(tuple(range(3, kernel.dim()))).transpose(1, 2)
        bias = b[0].reshape(g.groups, g.outputs) if b else None
        z = references.patch_map(self.form, g.rows(image), kernel, bias, KAPPA, self.kind == CENTRED).flatten(1, 2)
        return [t.detach() for t in (z, *torch.autograd.grad(z, exact, cotangent.double()))]


def problem(form, bias, kind, axes, seed, channels=1, outputs=None):
    """Return a map at a random geometry."""
    draw = Draw(torch.Generator().manual_seed(seed), "cpu", 1, 4)
    channels = max(channels, 3 if kind == CENTRED else 1)  # centring two entries leaves only a sign
    found = draw_geometry(
        draw, axes, transposed=kind == TURNED, seen=form == "norm-like", channels=channels, grouped=True
    )
    return Problem(form, bias, kind, dataclasses.replace(found, outputs=outputs or found.outputs))


def error(ours, exact):
    """The root mean square of the difference, relative to that of the exact tensor or of one if that is smaller."""
    return float((ours.double() - exact).norm() / max(float(exact.norm()), math.sqrt(exact.numel()) * 1e-3))


wide_problem = functools.partial(problem, channels=19, outputs=21)


def operator_calls(target, case, layout=None):
    """Yield the registered operators of a target for a map, with arguments: every way to keep, every gradient alone."""
    own = map_name(case.form, case.bias, case.kind)
    importlib.import_module(
        f"affine_divergence.kernels.{target}.{own}"
    )  # otherwise the first call would load the map's kernels
    name = f"{target}_{own}"
    tensors, g = case.operands(layout=layout)
    geometry, space = case.geometry, len(case.geometry.kernel)
    grouped = [split(t.detach(), k == 0, geometry.groups) for k, t in enumerate(tensors[:2])]
    grouped += [t.detach().reshape(geometry.groups, -1, *[1] * space) for t in tensors[2:]]
    grouped = [t.detach().requires_grad_() for t in grouped]
    numbers = as_numbers(
        Geometry(geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.extra)
    )
    operators = getattr(torch.ops, LIBRARY.ns)
    forward, backward = getattr(operators, name).default, getattr(operators, f"{name}_backward").default
    kept = grouped if case.form == "affine-like" else grouped[:2]
    for recompute in (True, False):
        yield forward, (*grouped, KAPPA, numbers, recompute)
        _, f, h = (t.detach() for t in forward(*grouped, KAPPA, numbers, recompute))
        for wanted in [[True] * len(grouped), [True] + [False] * (len(grouped) - 1)]:
            product = None if recompute else h
            yield backward, (split(g, 1, geometry.groups), *kept, f, product, KAPPA, numbers, wanted)
