"""One package from one expression, by torch, by Triton in its interpreter, and by CUDA on the CPU."""

import importlib
import sys

import torch

from codegen.compiler import render
from codegen.package import write
from codegen.plans.angles import angle_plan
from codegen.plans.solve_at import solve_at
from codegen.printing.naming import AngleFamily
from codegen.targets.base import NAMES
from derive.formula import parse_angle
from derive.layers import layer
from verify.cuda_on_host import Host

KAPPA = 1.7


class Targets:
    """The public functions of a generated package by the name of the target; ``replace`` mutates its texts."""

    def __init__(self, texts, folder, patch, replace=()):
        name = folder.name
        for file, old, new in replace:
            assert old in texts[file], f"{old!r} is not in {file}; update the mutant"
            texts = {**texts, file: texts[file].replace(old, new)}
        write(texts, folder)
        patch.syspath_prepend(str(folder.parent))
        homes = {"torch": "functional", "triton": "kernels.triton.functional", "cuda": "kernels.cuda.functional"}
        self.functions = {target: importlib.import_module(f"{name}.{home}") for target, home in homes.items()}
        self.name, self.place = name, folder
        self.host = Host(name)
        self.host.__enter__()

    def module(self, name):
        return sys.modules[f"{self.name}.{name}"]

    def forget(self):
        self.host.__exit__()
        for name in [m for m in sys.modules if m.split(".")[0] == self.name]:
            del sys.modules[name]


def at_angle(text):
    """Return the texts of a package with the map at an angle for every target."""
    plan = angle_plan(solve_at(layer("affine"), parse_angle(text))["angle"])
    return render([], "package", NAMES, [AngleFamily(plan)])


def results(function, tensors, g):
    """Return the output and gradients of a function, all detached."""
    z = function(*tensors, KAPPA)
    return [t.detach() for t in (z, *torch.autograd.grad(z, tensors, g))]


def operands(shape, dtype, sizes=(0.0, 1e-3, 0.03, 1e3), seed=0):
    """Return x (B, n), W (m, n), b (m) and a gradient (B, m); the first rows of x are short, long, or zero."""
    B, n, m = shape
    generator = torch.Generator().manual_seed(seed)
    x, W, b, g = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((B, n), (m, n), (m,), (B, m)))
    x[: len(sizes)] *= torch.tensor(sizes, dtype=torch.float64)[:, None]
    return [t.to(dtype).requires_grad_() for t in (x, W, b)], g.to(dtype)


def relative_error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()
