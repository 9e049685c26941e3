"""Replace torch's layers in a whole model by the layers of this package, and undo it.

A layer is replaced in place: the module stays the same object and gets another class. So its parameters, ties, hooks,
mode and device do not change, and all references to it, from an optimiser or elsewhere, stay valid.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from .attention import AffineLikeMultiheadAttention
from .modules import AffineLike, NormLike
from .runtime.captured_layers import (
    Also,
    captured_counterpart,
    checked,
    is_captured,
    reason_to_leave_captured,
    restored_counterpart,
)
from .runtime.checks import check_init, check_kappa
from .runtime.conversion_reasons import (
    reason_to_leave,
    reason_to_stay,
    reasons_around,
    used_directly,
)
from .runtime.conversion_records import (
    Entry,
    check_holder,
    forget,
    found_in,
    holder,
    mark,
    read,
    settings_of,
    store,
    written,
)
from .runtime.example_call import called_by, inputs_of

__all__ = ["Replaced", "Report", "Skipped", "convert", "record", "restore", "revert"]

Filter = Callable[[nn.Module, str], bool]
Plan = list[tuple[str, nn.Module, nn.Module]]
_RECORD = "_before_conversion"
_INTERNAL = frozenset(nn.Module().__dict__)


@dataclass(frozen=True)
class Replaced:
    """One replaced layer: its name in the model, and the names of both classes."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Skipped:
    """One module with parameters of its own that was not replaced, and why."""

    name: str
    type: str
    why: str


@dataclass(frozen=True)
class Report:
    """The result for every module of ``model`` that has parameters of its own; ``str`` formats it as a table.

    ``uncalled`` are the names of the replaced layers that the example did not call; None without an example.
    """

    model: nn.Module = field(repr=False)
    replaced: tuple[Replaced, ...]
    skipped: tuple[Skipped, ...]
    dry_run: bool = False
    uncalled: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as lists and strings for JSON; ``uncalled`` only after a call with an example."""
        return {
            "dry_run": self.dry_run,
            "replaced": [{"name": r.name, "from": r.old, "to": r.new} for r in self.replaced],
            "skipped": [{"name": s.name, "type": s.type, "why": s.why} for s in self.skipped],
            **({} if self.uncalled is None else {"uncalled": list(self.uncalled)}),
        }

    def __str__(self) -> str:
        """Return one line per module, replaced ones first."""
        verb = "would be replaced" if self.dry_run else "replaced"
        lines = [f"{len(self.replaced)} {verb}, {len(self.skipped)} skipped"]
        lines += [f"  {r.name or '(root)'}: {r.old} -> {r.new}" for r in self.replaced]
        lines += [f"  {s.name or '(root)'}: {s.type} skipped: {s.why}" for s in self.skipped]
        lines += [f"  {name or '(root)'}: {verb}, but the example does not call it" for name in self.uncalled or ()]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    filter_fn: Filter | None = None,
    dry_run: bool = False,
    example: object = None,
    also: Also | None = None,
    *,
    without_bias: str = "skip",
    init: str | None = None,
    marked: bool | None = None,
) -> Report:
    """Replace torch's layers in ``model``, including itself, by layers that cancel their divergence.

    ``torch.nn.Linear`` becomes ``AffineLike``, ``torch.nn.MultiheadAttention`` becomes
    ``AffineLikeMultiheadAttention``, and a convolution becomes its PatchNorm, such as ``torch.nn.Conv2d``
    ``PatchNormConv2d``, if the package holds it. Parameters keep their values, so the model computes a different
    function: train it, or redraw them with ``init``. A second call changes nothing. torch's encoder layers that hold a
    replaced layer no longer take their fast path, which would compute plain layers from the parameters.

    Everything is decided before anything changes. A layer is skipped, with the reason, if something else affects what it
    computes: if it is parametrised, wrapped, offloaded, quantised, sharded or held by an adapter, or if the code of a
    module around it reads its weight.

    State dicts hold the numbers, not the classes of the layers: save ``record(model)`` with them. A ``transformers``
    model gets the record in its config, as ``config.affine_divergence``, and a buffer whose name is an unexpected key
    when its weights are loaded into a plain model. Convert such a model as a whole: a model around a converted part has
    no record.

    Args:
        model: any module; it is changed in place, and is the report's ``model``.
        filter_fn: called with a module and its name in the model; a layer is replaced only if it returns True.
        dry_run: only report what would be done.
        example: a batch: a tuple of arguments, a mapping of arguments by name, or the only argument. The model is called
        with it once before anything changes, in evaluation mode and without gradients. Layers whose weights the
        call reads directly are skipped; replaced layers that it does not call are reported as ``uncalled``.
        also: module classes, each with the name of a map, such as ``{MyLayer: "affine-like"}``. A module of exactly that
        class becomes what the compiler generates for it: it is captured at its sizes, with the inputs that it gets
        from the example (without one, with inputs of the only shape that it accepts), and computes the map of its
        own parameters. If no map of that name cancels its divergence, or it cannot be captured, it is skipped, with
        the reason, and its parts are treated like all other modules. This takes seconds for each layer of a
        different kind or size, and needs the distribution affine-divergence.
        without_bias: what to do with a layer without a bias, for which the non-normalising map does not exist: "skip",
        or "norm-like" to use the normalising map.
        init: None keeps the values of the parameters; "variance-preserving" or "torch" redraws those of the replaced
        layers, as their ``reset_parameters`` does. ``revert`` does not restore the old values.
        marked: whether to add the buffer described above; by default only to a ``transformers`` model.

    Returns:
        The replaced layers, and the skipped ones with the reasons.

    Raises:
        TypeError: for a model that is not a module, a filter that is not callable, an ``also`` of another form.
        ModuleNotFoundError: for ``also`` without the compiler installed.
        ValueError: for a class in ``also`` that is replaced anyway, an unknown ``without_bias`` or ``init``, a part of a
        converted ``transformers`` model, whose config holds the record of the whole.
        Exception: any error of the model's call with the example.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model is a {type(model).__name__}; give a torch.nn.Module")
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"convert: filter_fn is a {type(filter_fn).__name__}; give a function of a module and its name")
    if without_bias not in ("skip", "norm-like"):
        raise ValueError(f"convert: without_bias is {without_bias!r}; choose 'skip' or 'norm-like'")
    if init is not None:
        check_init("convert", init)
    asked = _asked(model, checked(also, _MAKERS), filter_fn, example, init)
    plan, skipped = _plan(model, filter_fn, without_bias == "norm-like", asked)
    uncalled = None
    if example is not None:
        called, direct = called_by(model, example, [module for _, module, _ in plan])
        skipped += [
            Skipped(name, type(m).__name__, used_directly("the code around it", direct[id(m)])) for name, m, _ in plan if id(m) in direct
        ]
        plan = [item for item in plan if id(item[1]) not in direct]
        uncalled = tuple(name for name, m, _ in plan if id(m) not in called)
    replaced = tuple(Replaced(name, type(m).__name__, type(new).__name__) for name, m, new in plan)
    if plan and not dry_run:
        check_holder("convert", model, any(True for _ in _converted(model)))
        _carry_out(model, plan, init, marked)
    return Report(model, replaced, tuple(skipped), dry_run, uncalled)


def revert(model: nn.Module) -> Report:
    """Undo ``convert`` in ``model``: every layer that it replaced becomes torch's again, with its current parameters.

    A layer that another tool has changed in the meantime is skipped, with the reason, and encoders around it stay off
    their fast path.

    Returns:
    The reverted layers; layers of this package that ``convert`` did not make are skipped.

    Raises:
    TypeError: for a model that is not a module.
    ValueError: for a part of a converted ``transformers`` model, whose config holds the record of the whole.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"revert: model is a {type(model).__name__}; give a torch.nn.Module")
    if any(True for _ in _converted(model)):
        check_holder("revert", model, True)
    around = reasons_around(model, undo=True)
    replaced, skipped, made = [], [], dict[int, nn.Module]()
    for name, module in _converted(model):
        old, parts = type(module), [module, *_projections(module)]
        made.update((id(part), part) for part in parts)
        why = next((why for m in parts if (why := around.get(id(m), "") or _reason_to_stay(m))), "")
        if why:
            skipped.append(Skipped(name, old.__name__, why))
            continue
        for part in parts:
            _go_back(part)
        replaced.append(Replaced(name, old.__name__, type(module).__name__))
    for name, module in _layers(model):
        if _ours(type(module)) and id(module) not in made:
            skipped.append(Skipped(name, type(module).__name__, "convert did not make it; it was built as this class"))
    for module in model.modules():
        inside = any(_is_converted(part) for part in module.modules())
        if _RECORD in module.__dict__ and not inside:  # an encoder, whose fast path is correct again
            _go_back(module)
    if not any(True for _ in _converted(model)):
        forget(model)
    elif replaced and holder(model) is not None:
        store(model, record(model))
    return Report(model, tuple(replaced), tuple(skipped))


def record(model: nn.Module) -> dict[str, Any]:
    """Return the names, classes and settings of the layers that ``convert`` replaced in ``model``, in a form for JSON.

    Save it with a state dict: ``restore`` converts a plain model in the same way.

    Raises:
        TypeError: for a model that is not a module.
        ValueError: for a model without converted layers.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"record: model is a {type(model).__name__}; give a torch.nn.Module")
    layers = []
    for name, module in _converted(model):
        kinds = module.__dict__[_RECORD]
        layers.append(Entry(name, kinds["kind"].__name__, kinds["new"].__name__, settings_of(module)))
    if not layers:
        raise ValueError("record: no layer of this model was converted; call convert first")
    return written(model, layers)


def restore(model: nn.Module, record: Mapping[str, Any] | None = None) -> Report:
    """Convert the layers of a plain model that a record names, with their settings, before or after loading weights.

    Args:
        model: a model of the recorded structure; layers that already are as recorded do not change.
        record: what ``record`` returned, also after a round trip through JSON; None reads the config of a
        ``transformers`` model.

    Returns:
        The replaced layers.

    Raises:
        TypeError: for a model that is not a module, or a record that is not a mapping.
        ValueError: for a record of another form, or a layer that is missing, of another class, or cannot be replaced, with
        the reason. Then nothing is changed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"restore: model is a {type(model).__name__}; give a torch.nn.Module")
    if record is None:
        record = found_in(model)
    entries, prefix = read(model, record)
    around, plan = reasons_around(model), list[tuple[str, nn.Module, nn.Module]]()
    for entry in entries:
        name = prefix + entry.name
        module = model.get_submodule(name)
        if type(module).__name__ == entry.new and settings_of(module) == entry.settings:
            continue
        if "captured" in entry.settings:
            new = reason_to_leave_captured(model, module) or restored_counterpart(module, entry.settings)
        else:
            why = reason_to_leave(module, _MAKERS) or around.get(id(module), "")
            new = why or _counterpart(module, True, **entry.settings)
        if isinstance(new, str) or (type(module).__name__, type(new).__name__) != (entry.old, entry.new):
            why = new if isinstance(new, str) else f"it is a {type(module).__name__} here"
            raise ValueError(f"restore: {name!r} was converted from {entry.old} to {entry.new}, but {why}")
        plan.append((name, module, new))
    replaced = tuple(Replaced(name, type(module).__name__, type(new).__name__) for name, module, new in plan)
    if plan:
        _carry_out(model, plan, None, None)
    return Report(model, replaced, ())


def _asked(
    model: nn.Module, also: Also, filter_fn: Filter | None, example: object, init: str | None
) -> dict[int, nn.Module | str]:
    """Return the replacements of the modules of the classes in ``also``, or why there is none, by id; outer ones first."""
    found, within = dict[int, nn.Module | str](), set[int]()
    modules = [(name, module) for name, module in model.named_modules() if type(module) in also]
    missing = [kind.__name__ for kind in also if not any(type(module) is kind for _, module in modules)]
    if missing:
        warnings.warn(f"convert: the model holds no {', '.join(missing)}; name the exact class", stacklevel=3)
    met = inputs_of(model, example, [module for _, module in modules]) if modules and example is not None else None
    for name, module in modules:
        if id(module) in within:
            continue
        why = "filter_fn excludes it" if filter_fn and not filter_fn(module, name) else ""
        why = why or reason_to_leave_captured(model, module)
        if not why and init is not None and not hasattr(module, "reset_parameters"):
            why = "it has no reset_parameters, which init calls"
        if not why and met is not None and id(module) not in met:
            why = "the example does not call it, so its inputs are not known"
        inputs = None if met is None else met.get(id(module))
        found[id(module)] = why or captured_counterpart(module, also[type(module)], inputs)
        if not isinstance(found[id(module)], str):
            within.update(id(part) for part in module.modules())
    return found


def _plan(
    model: nn.Module, filter_fn: Filter | None, normalise: bool, asked: Mapping[int, nn.Module | str]
) -> tuple[Plan, list[Skipped]]:
    """Return the layers to replace, each with its replacement, and those to skip; nothing is changed.

    ``asked`` holds the replacements that ``also`` requested, by id.
    """
    around, plan, skipped = reasons_around(model), [], []
    for name, module in _layers(model, asked):
        if id(module) in asked:
            found = asked[id(module)]
            if isinstance(found, str):
                skipped.append(Skipped(name, type(module).__name__, found))
            else:
                plan.append((name, module, found))
            continue
        why = "it is a layer of this package already" if _ours(type(module)) else reason_to_leave(module, _MAKERS)
        why = why or next((around[id(m)] for m in (module, *_projections(module)) if id(m) in around), "")
        why = why or ("filter_fn excludes it" if filter_fn and not filter_fn(module, name) else "")
        new = None if why else _counterpart(module, normalise)
        if isinstance(new, nn.Module):
            plan.append((name, module, new))
        else:
            skipped.append(Skipped(name, type(module).__name__, why or str(new)))
    return plan, skipped


def _carry_out(model: nn.Module, plan: Plan, init: str | None, marked: bool | None) -> None:
    for _, module, new in plan:
        _become(module, new)
        _draw(module, init)
    _leave_fast_paths(model, {id(module) for _, module, _ in plan})
    if holder(model) is not None:
        store(model, record(model))
    if marked or (marked is None and holder(model) is not None):
        mark(model)


def _layers(model: nn.Module, asked: Mapping[int, object] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module that has parameters of its own, once; attention is one layer with its output projection.

    A captured layer, or one in ``asked`` that becomes one, counts as a single module with all its parts.
    """
    within: set[int] = set()
    for name, module in model.named_modules():
        becomes = (asked or {}).get(id(module))
        if id(module) not in within and (is_captured(type(module)) or isinstance(becomes, nn.Module)):
            within.update(id(part) for part in module.modules() if part is not module)
            yield name, module
            continue
        if isinstance(becomes, str) and id(module) not in within:
            yield name, module
            continue
        if isinstance(module, nn.MultiheadAttention | AffineLikeMultiheadAttention):
            within.add(id(module.out_proj))
        if id(module) in within or isinstance(module, ParametrizationList):
            continue
        if any(p is not None for p in module._parameters.values()):
            yield name, module


def _converted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that ``convert`` made, attention as one layer with its output projection."""
    within: set[int] = set()
    for name, module in model.named_modules():
        if _is_converted(module) and id(module) not in within:
            within.update(map(id, _projections(module)))
            yield name, module


def _is_converted(module: nn.Module) -> bool:
    return module.__dict__.get(_RECORD, {}).get("kind") is not None


def _projections(module: nn.Module) -> list[nn.Module]:
    """Return the output projection of attention, which is converted with it."""
    return [module.out_proj] if isinstance(module, nn.MultiheadAttention | AffineLikeMultiheadAttention) else []


def _reason_to_stay(module: nn.Module) -> str:
    """Return why a converted layer, or its output projection, cannot be reverted."""
    record = module.__dict__.get(_RECORD)
    if record is None:
        return f"its output projection has been replaced by a {type(module).__name__}; restore the original first"
    return reason_to_stay(module, record["new"], [(w, record["given"][w], module.__dict__.get(w)) for w in record["old"]])


def _counterpart(module: nn.Module, normalise: bool, **settings: Any) -> nn.Module | str:
    """Return a layer of this package with the settings of ``module``, without storage; or why there is none."""
    try:
        return _MAKERS[type(module)](module, normalise, settings)
    except (TypeError, ValueError) as problem:
        return str(problem)


def _linear(old: Any, normalise: bool, settings: dict[str, Any]) -> nn.Module:
    bias = old.bias is not None
    kind = NormLike if normalise and not bias else AffineLike
    return kind(old.in_features, old.out_features, bias, device="meta", **settings)


def _attention(old: Any, normalise: bool, settings: dict[str, Any]) -> nn.Module:
    score_scale = settings.pop("score_scale", None)
    new = AffineLikeMultiheadAttention(
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
        **settings,
    )
    if score_scale is not None:
        new.score_scale = check_kappa("AffineLikeMultiheadAttention: score_scale", score_scale, above=0.0)
    return new


def _convolution(old: Any, normalise: bool, settings: dict[str, Any]) -> nn.Module:
    """Return the PatchNorm class of that name, which not every package holds."""
    name, bias = f"PatchNorm{type(old).__name__}", old.bias is not None
    make: Callable[..., nn.Module] | None = getattr(sys.modules[__package__ or ""], name, None)
    if make is None:
        raise ValueError(f"this package holds no {name}")
    if old.transposed:
        settings = {k: v for k, v in settings.items() if k != "center"} | {"output_padding": old.output_padding}
    settings.setdefault("form", "norm-like" if normalise and not bias else "affine-like")
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
        **settings,
    )


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAKERS: dict[type[nn.Module], Callable[[Any, bool, dict[str, Any]], nn.Module]] = {
    nn.Linear: _linear,
    nn.MultiheadAttention: _attention,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
}


def _ours(kind: type[nn.Module]) -> bool:
    """Whether a class is a layer of this package."""
    within = f"{__package__}."
    return kind.__module__.startswith(within)


def _become(module: nn.Module, new: nn.Module) -> None:
    """Give a module the class and settings of ``new``, and likewise its output projection if it has one."""
    for name, child in new.named_children():
        _become(module.get_submodule(name), child)
    settings = {word: value for word, value in new.__dict__.items() if word not in _INTERNAL}
    _set(module, settings, type(module), type(new))
    module.__dict__.pop("forward", None)  # a tool may have left the old class's forward on the object
    module.__class__ = type(new)


def _draw(module: Any, init: str | None) -> None:
    """Initialise the parameters of a replaced layer, and of its output projection if it has one, as ``INITS`` names.

    A captured layer has only the initialisation of its own class.
    """
    if init is not None:
        for part in () if is_captured(type(module)) else (module, *module.children()):
            part.init = init
        module.reset_parameters()


def _set(module: nn.Module, settings: dict[str, Any], kind: type[nn.Module] | None, new: type[nn.Module] | None) -> None:
    """Set attributes of a module; keep their old values, and that the class ``kind`` becomes ``new``."""
    before = module.__dict__
    old = {word: before[word] for word in settings if word in before}
    before.update(settings)
    before[_RECORD] = {"kind": kind, "new": new, "old": old, "given": dict(settings)}


def _go_back(module: nn.Module) -> None:
    """Undo ``_set``."""
    record = module.__dict__.pop(_RECORD)
    for word in record["given"]:
        module.__dict__.pop(word, None)
    module.__dict__.update(record["old"])
    if record["kind"] is not None:
        module.__dict__.pop("forward", None)
        module.__class__ = record["kind"]


def _leave_fast_paths(model: nn.Module, replaced: set[int]) -> None:
    """Take torch's encoders off the fast path that computes plain layers from the parameters of replaced ones."""
    for module in model.modules():
        settings: dict[str, Any] = {}
        if isinstance(module, nn.TransformerEncoderLayer):
            settings = {"activation_relu_or_gelu": 0}
        elif isinstance(module, nn.TransformerEncoder):
            settings = {"use_nested_tensor": False}
        if settings and _RECORD not in module.__dict__ and any(id(part) in replaced for part in module.modules()):
            _set(module, settings, None, None)
