"""What is checked: a forward map as it was derived, beside a PyTorch module that claims to compute it.

A layer has one subject for its uncorrected form (torch's own module) and one for each cancelling map (the generated
class named after the map). Not supported: layers other than affine and linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from sympy import Expr
from torch import Tensor, nn

import affine_divergence as ad
import derive
from derive.forward_map import Layer
from derive.record import CancellingMap, Derivation
from verify.checks.evaluate import Array, Point
from verify.checks.record import Setting
from verify.derived import derived

LAYERS = ("affine", "linear")
_ATTRIBUTES = {"W": "weight", "b": "bias"}
_LARGEST_BATCH, _LARGEST_SIZE = 9, 12
_WIDER = 6


@dataclass(frozen=True)
class Subject:
    """A derived forward map and the module that computes it.

    ``self_factor`` is the K_ss it claims; ``make(n, m, kappa)`` returns the module, on the CPU in float32;
    ``least_kappa`` is the open lower end of kappa's range, None for an uncorrected layer, which has no kappa.
    """

    name: str
    layer: str
    mapped: Layer = field(repr=False)
    self_factor: Expr
    make: Callable[[int, int, float], nn.Module]
    map_name: str = ""
    least_kappa: float | None = None

    @property
    def generated(self) -> bool:
        """Whether the module is one of ours rather than torch's own."""
        return bool(self.map_name)

    @property
    def backend(self) -> str:
        """Who computes: ``torch`` for generated layers, ``torch.nn`` for torch's own."""
        return "torch" if self.generated else "torch.nn"

    @property
    def derivation(self) -> Derivation:
        """The effective update of the forward map, derived once a process."""
        return _derivation(self.mapped)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters' names in the derivation."""
        return tuple(parameter.name for parameter in self.mapped.parameters)

    def parameters_of(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the module's parameters by their names in the derivation."""
        return {name: getattr(module, _ATTRIBUTES[name]) for name in self.parameters}


@dataclass(frozen=True)
class Case:
    """One random instance: a module, an input x of shape (B, n), a loss gradient g of shape (B, m), kappa, a rate."""

    module: nn.Module
    x: Tensor
    g: Tensor
    kappa: float
    eta: float

    def point(self, subject: Subject) -> Point:
        """Return this instance as a point at which derived expressions can be evaluated."""
        tensors = {"x": self.x, "g": self.g} | subject.parameters_of(self.module)
        arrays: dict[str, Array] = {name: t.detach().cpu().numpy() for name, t in tensors.items()}
        batch, inputs = self.x.shape
        return Point(
            tensors=arrays,
            scalars={"kappa": self.kappa, "eta": self.eta},
            scope={d.name: d for d in subject.mapped.definitions},
            sizes={"B": batch, "n": inputs, "m": self.g.shape[1]},
        )


@cache
def subjects_of(layer: str) -> tuple[Subject, ...]:
    """Return the uncorrected layer and every map that cancels its divergence."""
    derivation = derived(layer)
    forward, factor = derivation.layer, derivation.self_factor.expression
    biased = "b" in {parameter.name for parameter in forward.parameters}
    plain = Subject(layer, layer, forward, factor, lambda n, m, kappa: nn.Linear(n, m, bias=biased))
    return (plain, *(_corrected(layer, found, biased) for found in derivation.solutions))


def _corrected(layer: str, found: CancellingMap, biased: bool) -> Subject:
    """Return the subject of a map: the generated class that carries its name in CamelCase."""
    generated = getattr(ad, "".join(word.capitalize() for word in found.name.split("-")))
    return Subject(
        name=found.mapped.name,
        layer=layer,
        mapped=found.mapped,
        self_factor=found.self_factor,
        make=lambda n, m, kappa: generated(n, m, bias=biased, kappa=kappa),
        map_name=found.name,
        least_kappa=float(found.kappa_default) - 1,
    )


@cache
def _derivation(mapped: Layer) -> Derivation:
    return derive.effective_update(mapped)


def cases(
    subject: Subject, setting: Setting, check: str, *, count: int, least: int = 1, largest: int = _LARGEST_SIZE
) -> list[Case]:
    """Draw random instances in float64 for the named check: shapes, kappa in (least_kappa, least_kappa + 4], rates.

    ``least`` and ``largest`` bound the numbers of inputs and units. With ``full`` there are more and larger instances.
    """
    generator = setting.generator(check)
    widen = _WIDER if setting.full else 1
    bounds = [(least, largest * (widen if k % 2 else 1)) for k in range(count * widen)]
    return [_case(subject, setting.device, generator, *bound) for bound in bounds]


def _case(subject: Subject, device: str, generator: torch.Generator, least: int, largest: int) -> Case:
    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)

    batch, n, m = whole(1, _LARGEST_BATCH), whole(least, largest), whole(least, largest)
    kappa = (subject.least_kappa or 0.0) + 4 * (1 - float(torch.rand((), generator=generator)))
    eta = 10 ** (7 * float(torch.rand((), generator=generator)) - 1)
    with torch.random.fork_rng(devices=[]):
        module = subject.make(n, m, kappa).to(device, torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(normal(*parameter.shape))
    scale = 10 ** (2 * float(torch.rand((), generator=generator)) - 1)
    x, g = scale * normal(batch, n), normal(batch, m)
    return Case(module, x, g / g.abs().amax(dim=1, keepdim=True), kappa, eta)
