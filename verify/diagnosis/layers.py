"""Determine which layers of a model can be judged, and why the others cannot; every module with parameters is listed.

Not determined here: whether a layer is called and with what input; ``capture`` records that.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

import affine_divergence as ad
from verify.diagnosis.kernel import Law
from verify.diagnosis.reads import NORMS, Read, bags, linear_by_value, norm_with_gain
from verify.diagnosis.samples import Shape

ATTENTION = (nn.MultiheadAttention, ad.AffineLikeMultiheadAttention)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PATCH_NORMS = (
    ad.PatchNormConv1d,
    ad.PatchNormConv2d,
    ad.PatchNormConv3d,
    ad.PatchNormConvTranspose1d,
    ad.PatchNormConvTranspose2d,
    ad.PatchNormConvTranspose3d,
)


BESIDE = "its children hold {inside:,} parameters, and differentiation would have to run them many times"
_FEW_INSIDE = 1 << 16  # most parameters in a module's children for differentiation; in larger models 1/16 of all


@dataclass(frozen=True)
class Unjudged:
    """A layer without a judgement, or without a part of it, and the reason in words."""

    name: str
    type: str
    reason: str


Reader = Callable[[Any, Any, Any, Any], Read]


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a parameter, under its first name in the model; all rows if ``stop`` is None."""

    parameter: str
    start: int = 0
    stop: int | None = None

    def of(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return these rows of the parameter's value; a sharded one is gathered, a collective call of all processes."""
        whole = gathered(values[self.parameter])
        return whole if self.stop is None else whole[self.start : self.stop]


def gathered(values: Tensor) -> Tensor:
    """Return a plain tensor: a DTensor gathered from all processes, a quantised tensor dequantised."""
    if hasattr(values, "full_tensor"):
        found: Tensor = values.full_tensor()
        return found
    return values.dequantize() if _is_foreign(values) else values


def _is_foreign(values: object) -> bool:
    """Whether a tensor is of another library's subclass and not sharded."""
    return is_traceable_wrapper_subclass(values) and not hasattr(values, "full_tensor")


@dataclass(frozen=True)
class Site:
    """One layer, or one projection of an attention, that can be judged.

    ``view`` computes self factors and runs alone: a stand-in with the layer's settings and no hooks. ``pieces`` are the
    parts of the model's parameters that form its ``weight`` and ``bias``; ``trained`` names those that a step moves;
    ``shared_with`` names other modules' names of the same parameters; ``closed`` says that its output cannot be
    observed; ``read`` arranges a call with more arguments than an input; ``transposed`` says that the weight has its
    input axis first, ``gain`` that it has one number per unit.
    """

    name: str
    type: str
    view: nn.Module
    law: Law
    shape: Shape
    pieces: dict[str, Piece]
    trained: tuple[str, ...]
    kappa: float = 1.0
    shared_with: tuple[str, ...] = ()
    closed: bool = False
    read: Reader | None = None
    transposed: bool = False
    gain: bool = False

    @property
    def trained_pieces(self) -> list[Piece]:
        """The pieces of trained parameters."""
        return [self.pieces[word] for word in self.trained if word in self.pieces]

    @property
    def offsets_only(self) -> bool:
        """Whether only the bias is trained, so that a step has the same effect as at a zero input."""
        return self.trained == ("bias",)


@dataclass(frozen=True)
class Attention:
    """An attention module: its name, and the model's first name of each of its projection parameters."""

    name: str
    parameters: Mapping[str, str]


@dataclass
class Plan:
    """The sites of a model by module, its attention modules, and the modules that cannot be judged.

    ``first_names`` maps the id of each parameter to its first name in the model. ``others`` are modules of unknown kind
    that automatic differentiation may judge; until then each is also listed as unjudged.
    """

    sites: dict[nn.Module, Site] = field(default_factory=dict)
    attention: dict[nn.Module, Attention] = field(default_factory=dict)
    unjudged: list[Unjudged] = field(default_factory=list)
    first_names: dict[int, str] = field(default_factory=dict)
    others: dict[nn.Module, str] = field(default_factory=dict)

    def names_of(self, module: nn.Module) -> dict[str, str]:
        """Return the model's first name of each parameter of a module, keyed by its name in the module."""
        return {name: self.first_names[id(p)] for name, p in module.named_parameters()}


class Names:
    """The names of each parameter of a model; a shared parameter has several, of which the first is used."""

    def __init__(self, model: nn.Module) -> None:
        self.all: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.all.setdefault(id(parameter), []).append(name)

    def piece(self, parameter: nn.Parameter, start: int = 0, stop: int | None = None) -> Piece:
        """Return the piece of a parameter of the model."""
        return Piece(self.all[id(parameter)][0], start, stop)

    def others(self, module: str, parameters: list[nn.Parameter]) -> tuple[str, ...]:
        """Return the names of the same parameters outside the named module."""
        own = f"{module}." if module else ""
        names = [name for p in parameters for name in self.all[id(p)]]
        return tuple(name for name in names if name.rpartition(".")[0] != own.rstrip("."))


def plan(model: nn.Module) -> Plan:
    """Classify every module of the model that has parameters of its own."""
    found, names, within = Plan(), Names(model), set()
    found.first_names = {key: every[0] for key, every in names.all.items()}
    most = max(_FEW_INSIDE, sum(p.numel() for p in model.parameters()) // 16)
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            within.add(module.out_proj)
        own = [p for p in module._parameters.values() if p is not None]
        if isinstance(module, ParametrizationList) or module in within:
            continue
        if not own and not hasattr(module, "parametrizations"):
            continue
        result = _sorted(name, module, own, names)
        if isinstance(result, Site):
            found.sites[module] = result
        elif result is None:
            inside = {word: names.all[id(p)][0] for word, p in module.named_parameters()}
            found.attention[module] = Attention(name, inside)
        else:
            if any(p.requires_grad for p in own) or hasattr(module, "parametrizations"):
                inside = sum(p.numel() for child in module.children() for p in child.parameters())
                if _can_stand_alone(module) and (hasattr(module, "parametrizations") or inside <= most):
                    found.others[module] = name
                elif inside > most:
                    result = replace(result, reason=f"{result.reason}; {BESIDE.format(inside=inside)}")
            found.unjudged.append(result)
    return found


def plan_of_factors(model: nn.Module) -> Plan:
    """Return the plan for measuring only self factors, without layers whose measurement costs too much."""
    found = plan(model)
    found.others = {}
    for module, site in list(found.sites.items()):
        if site.gain:
            del found.sites[module]
            reason = (
                "the gain of a norm, judged by verify.diagnose only: its self factors differ by unit, not by sample"
            )
            found.unjudged.append(Unjudged(site.name, site.type, reason))
    return found


def _can_stand_alone(module: nn.Module) -> bool:
    """Whether a module can be run alone; an embedding with max_norm cannot, since reading changes its rows."""
    table = isinstance(module, nn.Embedding | nn.EmbeddingBag)
    return not table and not any(nn.parameter.is_lazy(p) for p in module.parameters())


def _sorted(name: str, module: nn.Module, own: list[nn.Parameter], names: Names) -> Site | Unjudged | None:
    """Return the site of a module, or the reason why there is none; None for attention, whose projections are sites."""
    reason = _refusal(module, own)
    if reason:
        return Unjudged(name, type(module).__name__, reason)
    if isinstance(module, ATTENTION):
        return None
    made = make_site(name, module, names)
    return made if isinstance(made, Site) else Unjudged(name, type(module).__name__, made)


def _refusal(module: nn.Module, own: list[nn.Parameter]) -> str:
    """Return why a module cannot be judged whatever its settings, or an empty text."""
    if hasattr(module, "parametrizations"):
        return "its parameters are computed from others (torch.nn.utils.parametrize)"
    if any(nn.parameter.is_lazy(p) for p in own):
        return "its shapes are not known yet; call the model once first"
    closed = next((type(p) for p in own if _is_foreign(p) and type(p).dequantize is Tensor.dequantize), None)
    if closed is not None:
        return f"it holds a {closed.__name__}, which cannot be turned into plain numbers: it has no dequantize"
    if not any(p.requires_grad for p in module.parameters()):
        return "frozen: none of its parameters requires a gradient, so no step changes its output"
    if not (is_conv1d_of_transformers(module) or isinstance(module, (*_KINDS, *ATTENTION)) or _looks_known(module)):
        held = ", ".join(n for n, p in module._parameters.items() if p is not None)
        return f"no self factor is known for this kind of layer (it holds {held})"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
        return "max_norm rescales rows whenever they are read, outside the optimiser's step; set it to None"
    return ""


def is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, an affine map whose weight is stored transposed."""
    weight = module._parameters.get("weight")
    return (
        type(module).__name__ == "Conv1D"
        and weight is not None
        and weight.dim() == 2
        and getattr(module, "nf", None) == weight.shape[1]
    )


def _is_gain(module: nn.Module) -> bool:
    """Whether a module has the parameters of a norm with gain; each call checks whether it computes one."""
    weight = module._parameters.get("weight")
    named = isinstance(module, NORMS) or "norm" in type(module).__name__.lower()
    return named and weight is not None and (weight.dim() == 1 or isinstance(module, nn.LayerNorm | nn.RMSNorm))


def _looks_known(module: nn.Module) -> bool:
    """Whether the parameters look like those of a norm or a linear map; each call checks whether it is one."""
    weight, names = module._parameters.get("weight"), {n for n, p in module._parameters.items() if p is not None}
    if weight is None or not names <= {"weight", "bias"} or any(True for _ in module.children()):
        return False
    return _is_gain(module) or weight.dim() == 2


def make_site(name: str, module: nn.Module, names: Names) -> Site | str:
    """Return the site of a layer of a known kind, or the reason why it has none."""
    parameters = {n: p for n, p in module._parameters.items() if p is not None}
    trained = tuple(n for n in ("weight", "bias") if n in parameters and parameters[n].requires_grad)
    more = sorted(set(parameters) - {"weight", "bias"})
    if more:
        return f"it computes its map from other parameters: {', '.join(more)} (pruning, a norm of weights)"
    if _is_gain(module):
        return _gain_site(name, module, names, parameters, trained)
    law, shape, kappa = _law(module, trained)
    if law.map and set(trained) != set(parameters):
        return f"only its {trained[0]} is trained: its derived constant holds only if weight and bias both are"
    return Site(
        name=name,
        type=type(module).__name__,
        view=view(module, trained),
        law=law,
        shape=shape,
        pieces={n: names.piece(p) for n, p in parameters.items()},
        trained=trained,
        kappa=kappa,
        shared_with=names.others(name, list(parameters.values())),
        read=None if is_conv1d_of_transformers(module) or isinstance(module, _KINDS) else linear_by_value,
        transposed=is_conv1d_of_transformers(module),
    )


def _gain_site(
    name: str, module: nn.Module, names: Names, parameters: dict[str, nn.Parameter], trained: tuple[str, ...]
) -> Site:
    """Return the site of a norm with gain: an affine map of one entry per unit, as a grouped convolution."""
    units = parameters["weight"].numel()
    return Site(
        name=name,
        type=type(module).__name__,
        view=_gain_stand_in(units, "bias" in trained),
        law=Law("affine" if "bias" in trained else "linear"),
        shape=Shape.PATCHES,
        pieces={n: names.piece(p) for n, p in parameters.items()},
        trained=trained,
        shared_with=names.others(name, list(parameters.values())),
        read=norm_with_gain,
        gain=True,
    )


def with_offsets(site: Site) -> Site:
    """Return the site of an ``EmbeddingBag`` as a linear map of each bag's weights over the rows of the table."""
    table: Any = site.view
    stand_in = affine_stand_in(table.num_embeddings, table.embedding_dim, bias=False)
    return replace(site, view=stand_in, law=Law("linear"), shape=Shape.ROWS, transposed=True, read=bags)


def _law(module: Any, trained: tuple[str, ...]) -> tuple[Law, Shape, float]:
    """Return the derivation of a layer, the form of its input, and its kappa."""
    base = "affine" if "bias" in trained else "linear"
    if isinstance(module, nn.Embedding):
        return Law("embedding"), Shape.TOKENS, 1.0
    if isinstance(module, nn.EmbeddingBag):
        return Law("linear"), Shape.BAGS, 1.0
    if isinstance(module, ad.AffineLike | ad.NormLike):
        form = "affine-like" if isinstance(module, ad.AffineLike) else "norm-like"
        return Law(base, form), Shape.ROWS, module.kappa
    if isinstance(module, _PATCH_NORMS):
        return Law(base, module.form), Shape.PATCHES, module.kappa
    return Law(base), Shape.PATCHES if isinstance(module, _CONVOLUTIONS) else Shape.ROWS, 1.0


def view(module: nn.Module, trained: tuple[str, ...]) -> nn.Module:
    """Return a stand-in without hooks, and without bias if only the weight is trained.

    It copies the module's settings but not its parameter dictionary, so that calling it leaves the module unchanged.
    """
    weight = module._parameters["weight"]
    assert weight is not None
    if not isinstance(module, _KINDS) and not is_conv1d_of_transformers(module):
        return affine_stand_in(weight.shape[1], weight.shape[0], "bias" in trained)
    if is_conv1d_of_transformers(module):
        return affine_stand_in(weight.shape[0], weight.shape[1], "bias" in trained)
    twin = copy.copy(module)
    for word in [w for w in twin.__dict__ if w.endswith("_hooks")]:
        twin.__dict__[word] = OrderedDict()
    twin.__dict__["_parameters"] = dict(module._parameters)
    twin.__dict__["_buffers"] = dict(module._buffers)
    if "bias" not in trained and "bias" in twin._parameters:
        twin._parameters["bias"] = None
    return twin


@cache
def _gain_stand_in(units: int, bias: bool) -> nn.Conv1d:
    """Return a norm's gain as a layer on single entries, without storage."""
    return nn.Conv1d(units, units, 1, groups=units, bias=bias, device=torch.device("meta"))


def affine_stand_in(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """Return an affine map without storage, used for self factors and run with other modules' parameters."""
    return nn.Linear(inputs, outputs, bias=bias, device=torch.device("meta"))


_KINDS = (nn.Linear, *_CONVOLUTIONS, nn.Embedding, nn.EmbeddingBag, ad.AffineLike, ad.NormLike, *_PATCH_NORMS)
