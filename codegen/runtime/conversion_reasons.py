"""Why ``convert`` skips a layer, or ``revert`` does: a list of checks, each with its message.

A layer is replaced only if everything that it computes is known: its class, its forward, its parameters as plain
tensors that it owns, and the modules around it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .direct_uses import direct_uses

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OUTPUT = nn.modules.linear.NonDynamicallyQuantizableLinear  # the class of out_proj in torch's attention
_HOLDERS = {  # wrapper: reason, fix before converting, fix before reverting
    ("peft.tuners.tuners_utils", "BaseTunerLayer"): (
        "it belongs to a {} of peft, which adds to what its base layer computes; merge_and_unload first",
        ", or convert before peft wraps (see lora_config)",
        "",
    ),
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"): (
        "its parameters are sharded by {}",
        "; convert before they are",
        "; revert the model before they are",
    ),
}


def reason_to_leave(module: nn.Module, kinds: Collection[type[nn.Module]]) -> str:
    """Return why a module itself prevents its conversion, "" if it does not.

    ``kinds`` are the classes that have a counterpart; each has parameters of its own.
    """
    kind = type(module)
    if kind not in kinds:
        return _of_another_kind(module, kinds)
    parts = (module, module.out_proj) if isinstance(module, nn.MultiheadAttention) else (module,)
    if len(parts) == 2 and type(parts[1]) is not _OUTPUT:
        return f"its out_proj was replaced by a {type(parts[1]).__name__}"
    return next((why for part in parts if (why := of_a_part(part))), "")


def _of_another_kind(module: nn.Module, kinds: Collection[type[nn.Module]]) -> str:
    kind = type(module)
    if is_lazy(next(p for p in module._parameters.values() if p is not None)):
        return "its shapes are not known yet; call it once before"
    parent = next((p.__name__ for p in kind.__mro__ if p in kinds), None)
    if parent is None:
        return "this package has no counterpart for it"
    if hasattr(module, "parametrizations"):
        return "its parameters are computed from others (torch.nn.utils.parametrize)"
    if any(_is(p, "torch.distributed.fsdp", "FSDPModule") for p in kind.__mro__):
        return "its parameters are sharded by fully_shard; convert before they are"
    return f"it is a subclass of {parent}, which may compute something else"


def of_a_part(module: nn.Module) -> str:
    """Return why the tensors or the forward of one module are not its class's own, "" if they are."""
    if "forward" in module.__dict__ and not is_own_forward(module):
        by = " by accelerate, which places or offloads it; convert before that" if hasattr(module, "_hf_hook") else ""
        return f"its forward was replaced on the object{by}"
    computed = [word for word in ("weight", "in_proj_weight") if word in module.__dict__ or word in module._buffers]
    if computed:
        return f"its {computed[0]} is computed from other parameters (pruning, a norm of weights)"
    given = {word: p for word, p in module._parameters.items() if p is not None}
    for word, p in given.items():
        if p.dtype not in _FLOATS:
            return f"its parameters have the type {p.dtype}; the maps need real floating-point numbers"
        if type(p) is not nn.Parameter and type(p).__name__ != "FakeTensor":
            return f"its {word} is a {type(p).__name__}, {_tensor_words(type(p))}; convert before that"
        if hasattr(p, "ds_id"):
            return f"its {word} is partitioned by DeepSpeed; convert before that"
    return ""


def is_own_forward(module: nn.Module) -> bool:
    """Return whether an object's forward is its class's own, also if a tool has restored it on the object."""
    forward = module.__dict__["forward"]
    return getattr(forward, "__func__", None) is type(module).forward and forward.__self__ is module


def _tensor_words(kind: type) -> str:
    return "which is sharded" if _is(kind, "torch.distributed", "DTensor") else "as quantisation makes them"


def _is(kind: type, module: str, name: str) -> bool:
    return kind.__name__ == name and kind.__module__.startswith(module)


def reasons_around(model: nn.Module, undo: bool = False) -> dict[int, str]:
    """Return why the modules around a module prevent its conversion or, with ``undo``, its reversal, by its id.

    This concerns parts of another tool's wrappers and, unless ``undo``, layers whose weights another module's code
    reads.
    """
    found: dict[int, str] = {}
    for module in model.modules():
        why = _holds(type(module), undo)
        for part in module.modules() if why else ():
            if part is not module:
                found.setdefault(id(part), why)
        for part, word in () if undo else direct_uses(module):
            found.setdefault(id(part), used_directly(type(module).__name__, word))
    return found


def used_directly(parent: str, word: str) -> str:
    """Return the message about a layer whose parameter ``word`` another module reads."""
    return f"{parent} reads its {word} directly, without calling the layer, and would still compute torch's map"


def _holds(kind: type[nn.Module], undo: bool) -> str:
    for (module, name), (words, before, after) in _HOLDERS.items():
        there = getattr(sys.modules.get(module), name, None)
        if there is not None and issubclass(kind, there):
            return words.format(kind.__name__) + (after if undo else before)
    return ""


def reason_to_stay(module: nn.Module, made: type[nn.Module], before: Iterable[tuple[str, object, object]]) -> str:
    """Return why a converted module cannot be reverted, "" if it can.

    ``made`` is the class that it was given; ``before`` yields the name, the value then and the value now of its parts.
    """
    kind = type(module)
    if hasattr(module, "parametrizations"):
        return "its parameters are now computed from others (torch.nn.utils.parametrize); remove that first"
    if kind is not made:
        return f"another tool has changed its class from {made.__name__} to {kind.__name__}; undo that first"
    if "forward" in module.__dict__ and not is_own_forward(module):
        by = " by accelerate; call remove_hook_from_submodules" if hasattr(module, "_hf_hook") else "; undo that"
        return f"its forward has been replaced on the object{by} first"
    changed = [(word, then, now) for word, then, now in before if then != now]
    if changed:
        word, then, now = changed[0]
        return f"its {word} was {then!r} when it was converted and is {now!r} now; set it back first"
    return ""
