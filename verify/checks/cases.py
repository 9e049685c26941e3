"""The subjects of checks: a derived forward map, the module that should compute it, and random instances of both.

Inputs, outputs and gradients with respect to the output always have the axes of the derivation (``W[g, o, c, k]``). A
module with another layout is wrapped in ``Laid``; ``Place`` locates a parameter of the derivation in the module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from sympy import Expr
from torch import Tensor, nn

import derive
from derive.forward_map import Layer
from derive.record import CancellingMap, Derivation
from verify.checks.evaluate import Array, Point
from verify.checks.record import Setting

_WIDER = 6


class Laid(nn.Module):
    """A module in the layout of the derivation: ``forward(*inputs)`` converts, calls ``inner``, converts back."""

    def __init__(self, inner: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output in the layout of the derivation."""
        return self.call(self.inner, *inputs)


@dataclass(frozen=True)
class Place:
    """Where a derivation's parameter is: the module's parameter, and the view to take of it (or of its gradient)."""

    attribute: str
    view: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True)
class Case:
    """One random instance: module, inputs by name, loss gradient g with respect to the output, settings, sizes, eta.

    ``trained`` masks the entries of each module parameter that the derivation moves (0/1; absent: all of them). ``met``
    returns the derivation's inputs that the module computes internally.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    g: Tensor
    places: Mapping[str, Place]
    scalars: Mapping[str, float]
    sizes: Mapping[str, int]
    eta: float
    trained: Mapping[str, Tensor] | None = None
    met: Callable[[Case], Mapping[str, Tensor]] | None = None

    @property
    def kappa(self) -> float:
        """The target self factor of a map; 1 for an uncorrected layer, which has no target."""
        return self.scalars.get("kappa", 1.0)

    def __call__(self) -> Tensor:
        """Return the module's output at the inputs."""
        z: Tensor = self.module(*self.inputs.values())
        return z

    def laid(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters under their derivation names; ``tensors`` has them under their module names."""
        return {name: place.view(tensors[f"inner.{place.attribute}"]) for name, place in self.places.items()}

    def parameters(self) -> dict[str, Tensor]:
        """Return the module's parameters in the layout of the derivation, as differentiable views."""
        return self.laid(dict(self.module.named_parameters()))

    def point(self, mapped: Layer) -> Point:
        """Return this instance as a point for evaluating derived expressions."""
        made = self.met(self) if self.met else {}
        tensors = {**self.inputs, **made, "g": self.g, **self.parameters()}
        arrays: dict[str, Array] = {name: t.detach().cpu().double().numpy() for name, t in tensors.items()}
        arrays |= {name: a.astype(int) for name, a in arrays.items() if not self.is_real(name)}
        return Point(arrays, {**self.scalars, "eta": self.eta}, {d.name: d for d in mapped.definitions}, self.sizes)

    def is_real(self, name: str) -> bool:
        """Whether the named tensor holds real numbers rather than positions in a table."""
        return name not in self.inputs or self.inputs[name].is_floating_point()

    def as_type(self, dtype: torch.dtype) -> Case:
        """Return a copy rounded to another floating-point type."""
        inputs = {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.inputs.items()}
        return replace(self, module=copy.deepcopy(self.module).to(dtype), inputs=inputs, g=self.g.to(dtype))


@dataclass(frozen=True)
class Draw:
    """A source of random instances for one check: sizes up to ``largest``, numbers in float64 on the device."""

    generator: torch.Generator
    device: str
    least: int
    largest: int

    def whole(self, low: int, high: int) -> int:
        """Return a random integer from ``low`` to ``high``, both included."""
        return int(torch.randint(low, max(low, high) + 1, (), generator=self.generator))

    def size(self, largest: int | None = None) -> int:
        """Return a random size within the bounds of this draw, and at most ``largest`` if given."""
        return self.whole(self.least, self.largest if largest is None else min(largest, self.largest))

    def normal(self, *shape: int) -> Tensor:
        """Return normal random numbers."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.device)

    def power(self, low: float, high: float) -> float:
        """Return ten to the power of a uniform random number from ``low`` to ``high``."""
        return 10 ** (low + (high - low) * float(torch.rand((), generator=self.generator)))

    def kappa(self, least: float) -> float:
        """Return a random kappa in (least, least + 4]."""
        return least + 4 * (1 - float(torch.rand((), generator=self.generator)))

    def real(self, module: nn.Module) -> nn.Module:
        """Return the module in float64 on the device, with every parameter drawn from a normal distribution."""
        module = module.to(self.device, torch.float64)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(self.normal(*parameter.shape))
        return module

    def gradient(self, *shape: int) -> Tensor:
        """Return a random gradient with respect to the output, scaled to a largest entry of 1."""
        g = self.normal(*shape)
        return g / g.abs().amax()


@dataclass(frozen=True)
class Source:
    """The derivation of a forward map: the map as a layer, and the solution it came from, if it was solved for."""

    mapped: Layer
    found: CancellingMap | None = None

    @property
    def derivation(self) -> Derivation:
        """The effective update of the forward map, derived once per process."""
        return _derivation(self.mapped)

    @property
    def of_layer(self) -> Derivation:
        """The effective update of the layer that the map is a solution of."""
        return self.derivation if self.found is None else _derivation(self.found.layer)

    @property
    def self_factor(self) -> Expr:
        """The self factor that the derivation states for the map."""
        return self.derivation.self_factor.expression if self.found is None else self.found.self_factor


@dataclass(frozen=True)
class Subject:
    """A derived forward map and the module that computes it.

    ``name`` is the prefix of its equation ids, and ``variant`` tells subjects of one name apart. ``source`` is called
    on first use, so that listing checks derives nothing. ``draw`` returns a random instance for a kappa. ``form`` names
    the cancelling map; it is empty for an uncorrected layer.

    ``reference`` is the map written by hand, a function of inputs and parameters by name; gradients with respect to the
    tensors in ``by`` are compared with its gradients, in the dtypes ``types`` (empty: those of the backend).
    ``samples_apart`` says that no sample of a batch depends on another. ``factor`` is the self factor that the package
    states for the module; ``residual`` is the self factor of a map that does not cancel, written by hand; ``symmetry``
    is the relative departure from the map's symmetry under reordering the tokens of a sample. ``measures`` names the
    properties to measure (empty: all of the map's).

    ``equations`` gives the equation ids of quantities that have no equation of their own. ``derived_over`` gives the
    spatial axes of the derivation if several derivations share the name. ``without_onednn`` are the dtypes in which
    oneDNN is switched off on the CPU: its bfloat16 convolutions read and write out of bounds at some geometries (stride
    with dilation, a single position).
    """

    name: str
    layer: str
    source: Callable[[], Source]
    draw: Callable[[Draw, float], Case]
    variant: str = ""
    backend: str = "torch"
    form: str = ""
    reference: Callable[[Mapping[str, Tensor], Case], Tensor] | None = None
    by: tuple[str, ...] = ()
    samples_apart: bool = True
    factor: Callable[[Case], Tensor] | None = None
    families: tuple[str, ...] = ("identity", "gradient", "property")
    equations: Mapping[str, str] = field(default_factory=dict)
    without_onednn: tuple[str, ...] = ()
    derived_over: str = ""
    measures: tuple[str, ...] = ()
    symmetry: Callable[[Case], float] | None = None
    residual: Callable[[Case], Tensor] | None = None
    types: tuple[str, ...] = ()

    @property
    def generated(self) -> bool:
        """Whether the module belongs to the generated package rather than to torch."""
        return bool(self.form)

    @property
    def derived_with(self) -> str:
        """The key of the derivation: the layer's name, with its spatial axes if several derivations share the name."""
        stem = self.name.rpartition("/")[0] or self.layer
        return f"{stem}/{self.derived_over}" if self.derived_over else stem

    def identity(self, family: str, what: str) -> str:
        """Return the id of a check: ``family/equation prefix/what``, then the variant if there is one."""
        return "/".join(part for part in (family, self.name, what, self.variant) if part)

    def derivation_identity(self, step: str) -> str:
        """Return the id of the check of a derivation step: ``derivation/step``, then ``derived_over`` if set."""
        return "/".join(part for part in ("derivation", step, self.derived_over) if part)

    def equation(self, what: str) -> str:
        """Return the ids of the equations that a check of ``what`` tests."""
        return self.equations.get(what, f"{self.name}/{what}")

    def least_kappa(self) -> float:
        """Return the exclusive lower bound of kappa: an unscaled bias alone contributes 1 to the self factor."""
        found = self.source().found
        return 0.0 if found is None or not found.kappa_default.is_number else float(found.kappa_default) - 1


@cache
def _derivation(mapped: Layer) -> Derivation:
    return derive.effective_update(mapped)


def cases(
    subject: Subject, setting: Setting, check: str, *, count: int, least: int = 1, largest: int = 12
) -> list[Case]:
    """Draw random instances in float64 for the named check.

    ``least`` and ``largest`` bound the sizes. With ``full`` the instances are more and larger.
    """
    generator = setting.generator(check)
    widen = _WIDER if setting.full else 1
    drawn = []
    for k in range(count * widen):
        draw = Draw(generator, setting.device, least, largest * (widen if k % 2 else 1))
        with torch.random.fork_rng(devices=[]):
            drawn.append(subject.draw(draw, draw.kappa(subject.least_kappa())))
    return drawn
