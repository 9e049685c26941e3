"""Put the layers of this package in the place of torch's, in a whole model, and back.

A layer is replaced in place: the module stays the same object and is given another class. Its parameters, ties, hooks,
mode and device, and all references to it, from an optimiser or elsewhere, therefore stay what they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from .attention import AffineLikeMultiheadAttention
from .modules import AffineLike, NormLike
from .runtime.checks import check_init

__all__ = ["Replaced", "Report", "Skipped", "convert", "revert"]

Filter = Callable[[nn.Module, str], bool]
_RECORD = "_before_conversion"
_INTERNAL = frozenset(nn.Module().__dict__)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OUTPUT = nn.modules.linear.NonDynamicallyQuantizableLinear  # what torch gives its own attention


@dataclass(frozen=True)
class Replaced:
    """One layer that was given another class: its name in the model, and the names of both classes."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Skipped:
    """One module with parameters of its own that stayed as it was, and why."""

    name: str
    type: str
    why: str


@dataclass(frozen=True)
class Report:
    """What became of the modules of ``model`` that have parameters of their own; ``str`` gives it as a table."""

    model: nn.Module = field(repr=False)
    replaced: tuple[Replaced, ...]
    skipped: tuple[Skipped, ...]
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the report as lists and strings, as JSON has them."""
        return {
            "dry_run": self.dry_run,
            "replaced": [{"name": r.name, "from": r.old, "to": r.new} for r in self.replaced],
            "skipped": [{"name": s.name, "type": s.type, "why": s.why} for s in self.skipped],
        }

    def __str__(self) -> str:
        """Return one line a module, the replaced first."""
        verb = "would be replaced" if self.dry_run else "replaced"
        lines = [f"{len(self.replaced)} {verb}, {len(self.skipped)} skipped"]
        lines += [f"  {r.name or '(root)'}: {r.old} -> {r.new}" for r in self.replaced]
        lines += [f"  {s.name or '(root)'}: {s.type} skipped: {s.why}" for s in self.skipped]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    filter_fn: Filter | None = None,
    dry_run: bool = False,
    *,
    without_bias: str = "skip",
    init: str | None = None,
) -> Report:
    """Replace torch's layers in ``model``, itself included, by those that cancel their divergence.

    ``torch.nn.Linear`` becomes ``AffineLike``, ``torch.nn.MultiheadAttention`` ``AffineLikeMultiheadAttention``, and a
    convolution such as ``torch.nn.Conv2d`` what is ``PatchNormConv2d``, where the package holds it. Parameters keep
    their values, so the model computes something else: train it, or have them drawn anew with ``init``. A second call
    changes nothing more. torch's encoder layers that hold a replaced layer no longer take the fast path on which they
    compute plain layers from the parameters.

    Args:
        model: any module; it is changed in place and stands in the report as ``model``.
        filter_fn: called with a module and its name in the model; only where it returns True is a layer replaced.
        dry_run: report what would be done, and do nothing.
        without_bias: what becomes of a layer without a bias, for which the non-normalising map does not exist: "skip", or
            "norm-like" to give it the normalising map.
        init: None keeps the values of the parameters; "variance-preserving" or "torch" draws those of the replaced layers
            anew, as their ``reset_parameters`` does. ``revert`` does not bring the old values back.

    Returns:
        What was replaced, and what was skipped and why.

    Raises:
        TypeError: a model that is no module, a filter that cannot be called.
        ValueError: another word for ``without_bias`` or ``init``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model is a {type(model).__name__}; give a torch.nn.Module")
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"convert: filter_fn is a {type(filter_fn).__name__}; give a function of a module and its name")
    if without_bias not in ("skip", "norm-like"):
        raise ValueError(f"convert: without_bias is {without_bias!r}; choose 'skip' or 'norm-like'")
    if init is not None:
        check_init("convert", init)
    found: list[tuple[nn.Module, nn.Module]] = []
    replaced, skipped = [], []
    for name, module in _layers(model):
        why = _reason(module) or ("filter_fn leaves it out" if filter_fn and not filter_fn(module, name) else "")
        new = None if why else _counterpart(module, without_bias)
        if isinstance(new, nn.Module):
            found.append((module, new))
            replaced.append(Replaced(name, type(module).__name__, type(new).__name__))
        else:
            skipped.append(Skipped(name, type(module).__name__, why or str(new)))
    if not dry_run:
        for module, new in found:
            _become(module, new)
            _draw(module, init)
        _leave_fast_paths(model, {id(module) for module, _ in found})
    return Report(model, tuple(replaced), tuple(skipped), dry_run)


def revert(model: nn.Module) -> Report:
    """Undo ``convert`` in ``model``: every layer that it replaced is torch's again, with the parameters that it has now.

    Returns:
        What was put back; layers of this package that ``convert`` did not make are skipped.

    Raises:
        TypeError: a model that is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"revert: model is a {type(model).__name__}; give a torch.nn.Module")
    replaced, skipped = [], []
    for name, module in _layers(model):
        old = type(module)
        if _go_back(module):
            replaced.append(Replaced(name, old.__name__, type(module).__name__))
        elif _ours(old):
            skipped.append(Skipped(name, old.__name__, "convert did not make it; it was built as it is"))
    for module in model.modules():
        _go_back(module)
    return Report(model, tuple(replaced), tuple(skipped))


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module that has parameters of its own, once; attention is one layer with its output projection."""
    within: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention | AffineLikeMultiheadAttention):
            within.add(id(module.out_proj))
        if id(module) in within or isinstance(module, ParametrizationList):
            continue
        if any(p is not None for p in module._parameters.values()):
            yield name, module


def _reason(module: nn.Module) -> str:
    """Return why a module cannot be replaced, nothing if it can."""
    kind = type(module)
    if _ours(kind):
        return "it is a layer of this package already"
    if kind not in _MAKERS:
        if nn.parameter.is_lazy(next(p for p in module._parameters.values() if p is not None)):
            return "its shapes are not known yet; call it once before"
        parent = next((p.__name__ for p in kind.__mro__ if p in _MAKERS), None)
        if parent is None:
            return "no layer of this package takes its place"
        if hasattr(module, "parametrizations"):
            return "its parameters are computed from others (torch.nn.utils.parametrize)"
        return f"it is a subclass of {parent}, which may compute something else"
    if "forward" in module.__dict__:
        return "its forward was replaced on the object"
    computed = [word for word in ("weight", "in_proj_weight") if word in module.__dict__ or word in module._buffers]
    if computed:
        return f"its {computed[0]} is computed from other parameters (pruning, a norm of weights)"
    if isinstance(module, nn.MultiheadAttention) and type(module.out_proj) is not _OUTPUT:
        return f"its out_proj is a {type(module.out_proj).__name__}, put there by somebody"
    odd = next((p.dtype for p in module._parameters.values() if p is not None and p.dtype not in _FLOATS), None)
    return "" if odd is None else f"its parameters have the type {odd}; the maps are of real floating-point numbers"


def _counterpart(module: nn.Module, without_bias: str) -> nn.Module | str:
    """Return a layer of this package with the settings of ``module``, without storage; or why there is none."""
    try:
        return _MAKERS[type(module)](module, without_bias == "norm-like")
    except (TypeError, ValueError) as problem:
        return str(problem)


def _linear(old: Any, normalise: bool) -> nn.Module:
    bias = old.bias is not None
    kind = NormLike if normalise and not bias else AffineLike
    return kind(old.in_features, old.out_features, bias, device="meta")


def _attention(old: Any, normalise: bool) -> nn.Module:
    return AffineLikeMultiheadAttention(
        old.embed_dim,
        old.num_heads,
        old.dropout,
        bias=old.in_proj_bias is not None,
        add_bias_kv=old.bias_k is not None,
        add_zero_attn=old.add_zero_attn,
        kdim=old.kdim,
        vdim=old.vdim,
        batch_first=old.batch_first,
        device="meta",
    )


def _convolution(old: Any, normalise: bool) -> nn.Module:
    """Return PatchNorm of the same name, which not every package holds."""
    name, bias = f"PatchNorm{type(old).__name__}", old.bias is not None
    make: Callable[..., nn.Module] | None = getattr(sys.modules[__package__ or ""], name, None)
    if make is None:
        raise ValueError(f"this package holds no {name}")
    settings = {"output_padding": old.output_padding} if old.transposed else {}
    return make(
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        dilation=old.dilation,
        groups=old.groups,
        bias=bias,
        padding_mode=old.padding_mode,
        device="meta",
        form="norm-like" if normalise and not bias else "affine-like",
        **settings,
    )


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAKERS: dict[type[nn.Module], Callable[[Any, bool], nn.Module]] = {
    nn.Linear: _linear,
    nn.MultiheadAttention: _attention,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
}


def _ours(kind: type[nn.Module]) -> bool:
    """Whether a class is a layer of this package."""
    within = f"{__package__}."
    return kind.__module__.startswith(within)


def _become(module: nn.Module, new: nn.Module) -> None:
    """Give a module the class and settings of ``new``, and its output projection, where it has one, those of that."""
    for name, child in new.named_children():
        _become(module.get_submodule(name), child)
    settings = {word: value for word, value in new.__dict__.items() if word not in _INTERNAL}
    _set(module, settings, type(module))
    module.__class__ = type(new)


def _draw(module: Any, init: str | None) -> None:
    """Draw the parameters of a replaced layer, and of its output projection where it has one, in a way of ``INITS``."""
    if init is not None:
        for part in (module, *module.children()):
            part.init = init
        module.reset_parameters()


def _set(module: nn.Module, settings: dict[str, Any], kind: type[nn.Module] | None) -> None:
    """Set attributes of a module and keep a record of what they were, and of the class ``kind`` that it had."""
    before = module.__dict__
    record = {"kind": kind, "old": {word: before[word] for word in settings if word in before}, "set": list(settings)}
    before.update(settings)
    before[_RECORD] = record


def _go_back(module: nn.Module) -> bool:
    """Undo ``_set``, for the output projection of attention too; return whether there was something to undo."""
    record = module.__dict__.pop(_RECORD, None)
    if record is None:
        return False
    for word in record["set"]:
        module.__dict__.pop(word, None)
    module.__dict__.update(record["old"])
    if record["kind"] is not None:
        module.__class__ = record["kind"]
    return True


def _leave_fast_paths(model: nn.Module, replaced: set[int]) -> None:
    """Keep torch's encoders from computing plain layers from the parameters of layers that were replaced."""
    for module in model.modules():
        settings: dict[str, Any] = {}
        if isinstance(module, nn.TransformerEncoderLayer):
            settings = {"activation_relu_or_gelu": 0}
        elif isinstance(module, nn.TransformerEncoder):
            settings = {"use_nested_tensor": False}
        if settings and _RECORD not in module.__dict__ and any(id(part) in replaced for part in module.modules()):
            _set(module, settings, None)
