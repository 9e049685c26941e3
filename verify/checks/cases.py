"""What is checked: a forward map as it was derived, beside a module that claims to compute it, at random instances.

Layout: inputs, outputs and gradients with respect to the output always have the axes of the derivation
(``W[g, o, c, k]``). A module that lays them out in another way is wrapped in ``Laid``; ``Place`` says where a parameter
stands in it.
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
    """Where a parameter of the derivation stands: the module's parameter, and the view of it (or of its gradient)."""

    attribute: str
    view: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True)
class Case:
    """One random instance: module, inputs by name, the loss gradient g by the output, settings, sizes, a rate.

    ``trained`` are the entries of each module parameter that the derivation moves (a 0/1 mask; absent: all of them);
    ``met`` returns inputs of the derivation that the module makes itself.
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
        """The self factor that a map is to reach; 1 for an uncorrected layer, which has none."""
        return self.scalars.get("kappa", 1.0)

    def __call__(self) -> Tensor:
        """Return the module's output at the inputs."""
        z: Tensor = self.module(*self.inputs.values())
        return z

    def laid(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters by their names in the derivation, from ``tensors`` by their names in the module."""
        return {name: place.view(tensors[f"inner.{place.attribute}"]) for name, place in self.places.items()}

    def parameters(self) -> dict[str, Tensor]:
        """Return the module's parameters in the layout of the derivation, connected to the module's."""
        return self.laid(dict(self.module.named_parameters()))

    def point(self, mapped: Layer) -> Point:
        """Return this instance as a point at which derived expressions can be evaluated."""
        made = self.met(self) if self.met else {}
        tensors = {**self.inputs, **made, "g": self.g, **self.parameters()}
        arrays: dict[str, Array] = {name: t.detach().cpu().double().numpy() for name, t in tensors.items()}
        arrays |= {name: a.astype(int) for name, a in arrays.items() if not self.is_real(name)}
        return Point(arrays, {**self.scalars, "eta": self.eta}, {d.name: d for d in mapped.definitions}, self.sizes)

    def is_real(self, name: str) -> bool:
        """Whether the tensor of that name holds real numbers and not positions in a table."""
        return name not in self.inputs or self.inputs[name].is_floating_point()

    def as_type(self, dtype: torch.dtype) -> Case:
        """Return a copy in another floating-point type; numbers that it cannot hold are rounded."""
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
        """Return a random size within the bounds of this draw, and within ``largest`` where that is given."""
        return self.whole(self.least, self.largest if largest is None else min(largest, self.largest))

    def normal(self, *shape: int) -> Tensor:
        """Return normal random numbers."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.device)

    def power(self, low: float, high: float) -> float:
        """Return ten to a uniform random power."""
        return 10 ** (low + (high - low) * float(torch.rand((), generator=self.generator)))

    def kappa(self, least: float) -> float:
        """Return a random kappa in (least, least + 4]."""
        return least + 4 * (1 - float(torch.rand((), generator=self.generator)))

    def real(self, module: nn.Module) -> nn.Module:
        """Return the module in float64 on the device, every parameter drawn from the normal distribution."""
        module = module.to(self.device, torch.float64)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(self.normal(*parameter.shape))
        return module

    def gradient(self, *shape: int) -> Tensor:
        """Return a random gradient with respect to the output, its largest entry 1."""
        g = self.normal(*shape)
        return g / g.abs().amax()


@dataclass(frozen=True)
class Source:
    """What is derived of a forward map: the map as a layer, and what it cancels to, if it was solved for."""

    mapped: Layer
    found: CancellingMap | None = None

    @property
    def derivation(self) -> Derivation:
        """The effective update of the forward map, derived once a process."""
        return _derivation(self.mapped)

    @property
    def of_layer(self) -> Derivation:
        """The effective update of the layer that the map is a solution of."""
        return self.derivation if self.found is None else _derivation(self.found.layer)

    @property
    def self_factor(self) -> Expr:
        """The self factor that the map claims."""
        return self.derivation.self_factor.expression if self.found is None else self.found.self_factor


@dataclass(frozen=True)
class Subject:
    """A derived forward map and the module that computes it.

    ``name`` is the prefix of its equations, ``variant`` tells subjects of one name apart. ``source`` is called when
    it is first needed, so that listing checks derives nothing. ``draw`` returns a random instance for a kappa; ``form``
    is the name of the cancelling map, empty for an uncorrected layer. ``reference`` is the map written by hand, of the
    inputs and parameters by name; ``by`` are the tensors whose gradients are compared with it. ``samples_apart`` says
    that the samples of a batch do not see each other; ``factor`` is the self factor that the package states for the
    module. ``equations`` names the equations of what no equation of its own says; ``without_onednn`` are the types in
    which the CPU does without oneDNN, whose convolutions in bfloat16 read and write beside their tensors at some
    geometries (stride with dilation, a single position). ``derived_over`` are the axes of space of the derivation
    where several have one name. ``measures`` are the properties that are measured, all of a map's if none is named;
    ``symmetry`` is the relative departure from what reordering the tokens inside a sample does; ``residual`` the self
    factor of what is not cancelled, by hand. ``types`` are those in which results are compared with the reference,
    where they are not those of the backend.
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
        """Whether the module is one of the generated package rather than torch's own."""
        return bool(self.form)

    @property
    def derived_with(self) -> str:
        """What the source is derived with: the layer, or a variant of it over so many axes of space."""
        stem = self.name.rpartition("/")[0] or self.layer
        return f"{stem}/{self.derived_over}" if self.derived_over else stem

    def identity(self, family: str, what: str) -> str:
        """Return the id of a check: ``family/equation prefix/what``, and the variant where there is one."""
        return "/".join(part for part in (family, self.name, what, self.variant) if part)

    def derivation_identity(self, step: str) -> str:
        """Return the id of a check of one step: ``derivation/step``, and the axes of space where one name has more."""
        return "/".join(part for part in ("derivation", step, self.derived_over) if part)

    def equation(self, what: str) -> str:
        """Return the ids of the equations that a check of ``what`` tests."""
        return self.equations.get(what, f"{self.name}/{what}")

    def least_kappa(self) -> float:
        """Return the open lower end of kappa's range: a bias that stays as it is takes 1 of it."""
        found = self.source().found
        return 0.0 if found is None or not found.kappa_default.is_number else float(found.kappa_default) - 1


@cache
def _derivation(mapped: Layer) -> Derivation:
    return derive.effective_update(mapped)


def cases(
    subject: Subject, setting: Setting, check: str, *, count: int, least: int = 1, largest: int = 12
) -> list[Case]:
    """Draw random instances in float64 for the named check.

    ``least`` and ``largest`` bound the sizes. With ``full`` there are more and larger instances.
    """
    generator = setting.generator(check)
    widen = _WIDER if setting.full else 1
    drawn = []
    for k in range(count * widen):
        draw = Draw(generator, setting.device, least, largest * (widen if k % 2 else 1))
        with torch.random.fork_rng(devices=[]):
            drawn.append(subject.draw(draw, draw.kappa(subject.least_kappa())))
    return drawn
