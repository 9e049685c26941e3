"""The record of a conversion: its form, reading, checks, and where a ``transformers`` model stores it.

    {"schema": "affine-divergence.conversion/1", "model": "GPT2LMHeadModel",
     "layers": [{"name": "lm_head", "from": "Linear", "to": "NormLike", "settings": {"kappa": 1.0, ..}}, ..]}

``name`` is the layer's name in the model; ``settings`` are arguments of its class, which checks them.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .captured_layers import SETTINGS as CAPTURED_SETTINGS
from .captured_layers import is_captured

SCHEMA = "affine-divergence.conversion/1"
_SETTINGS = (
    "kappa",
    "form",
    "center",
    "recompute",
    "value_path",
    "qk_norm",
    "score_scale",
    "init",
    "backend",
    "captured",
)
_ATTRIBUTE = "affine_divergence"
_MARK = "converted_by_affine_divergence_call_its_restore"


@dataclass(frozen=True)
class Entry:
    """One converted layer: its name in the model, its two classes, and the settings that torch's class lacks."""

    name: str
    old: str
    new: str
    settings: dict[str, Any]


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Return the settings of a layer of this package for a record."""
    words = CAPTURED_SETTINGS if is_captured(type(module)) else _SETTINGS
    return {word: module.__dict__[word] for word in words if word in module.__dict__}


def written(model: nn.Module, layers: Sequence[Entry]) -> dict[str, Any]:
    """Return the record of converted layers in a form for JSON."""
    found = [{"name": e.name, "from": e.old, "to": e.new, "settings": e.settings} for e in layers]
    return {"schema": SCHEMA, "model": type(model).__name__, "layers": found}


def read(model: nn.Module, record: object) -> tuple[list[Entry], str]:
    """Return the layers of a record, and the prefix of their names in ``model``.

    The record of a part of the model applies to that part, if exactly one module has the recorded class; the record of
    a ``transformers`` model with a head also applies to the body without the head.

    Raises:
        TypeError: if the record is not a mapping.
        ValueError: if the record has another form, or has layers that the model lacks.
    """
    if not isinstance(record, Mapping):
        raise TypeError(f"restore: the record is a {type(record).__name__}; give what ad.record(model) returned")
    if record.get("schema") != SCHEMA or not isinstance(record.get("layers"), list):
        raise ValueError(
            f"restore: the record has the schema {record.get('schema')!r}; give what ad.record(model) returned, "
            f"which has {SCHEMA!r}"
        )
    entries = [_entry(given) for given in record["layers"]]
    parts = [name for name, m in model.named_modules() if name and type(m).__name__ == record.get("model")]
    for prefix in ("", *(f"{part}." for part in parts[:1] if len(parts) == 1)):
        there = {
            prefix_less for name, _ in model.named_modules() if (prefix_less := _without(name, prefix)) is not None
        }
        missing = next((e.name for e in entries if e.name not in there), None)
        if missing is None:
            return entries, prefix
    body = f"{model.base_model_prefix}." if holder(model) is not None else "."
    bare = [replace(e, name=e.name[len(body) :]) for e in entries if e.name.startswith(body)]
    if bare and {e.name for e in bare} <= {name for name, _ in model.named_modules()}:
        return bare, ""
    raise ValueError(
        f"restore: the record names a layer {missing!r} that this {type(model).__name__} does not have; it is of "
        f"a {record.get('model')}: give a model of the same architecture"
    )


def _without(name: str, prefix: str) -> str | None:
    return name[len(prefix) :] if name.startswith(prefix) else None


def _entry(given: object) -> Entry:
    """Return one layer of a record; raise ValueError if it has another form."""
    if isinstance(given, Mapping) and set(given) == {"name", "from", "to", "settings"}:
        name, old, new, settings = (given[word] for word in ("name", "from", "to", "settings"))
        if all(isinstance(word, str) for word in (name, old, new)) and isinstance(settings, Mapping):
            unknown = next((word for word in settings if word not in _SETTINGS), None)
            if unknown is None:
                return Entry(name, old, new, dict(settings))
            raise ValueError(
                f"restore: {name!r} has the unknown setting {unknown!r}; the known ones are {', '.join(_SETTINGS)}"
            )
    raise ValueError(f"restore: {given!r} is not a layer of a record; it must have name, from, to and settings")


def holder(model: nn.Module) -> Any:
    """Return the config of a ``transformers`` model, which is saved with it; None for any other model."""
    there = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    return model.config if there is not None and isinstance(model, there) else None


def check_holder(name: str, model: nn.Module, converted: bool) -> None:
    """Raise ValueError if ``name``, called on a part of a model, would make the record of the whole model wrong.

    A part shares the config of the whole. Warns if the config has a record but no layer is ``converted``: the record
    was not restored.
    """
    found = getattr(holder(model), _ATTRIBUTE, None)
    if found is None:
        return
    kind = type(model).__name__
    if not converted:
        warnings.warn(
            f"{name}: the config of this {kind} records a conversion, but none of its layers is converted; "
            "ad.restore(model) repeats the recorded conversion",
            stacklevel=3,
        )
    elif found["model"] not in {type(module).__name__ for module in model.modules()}:
        raise ValueError(
            f"{name}: the config of this {kind} holds the record of the {found['model']} that it is a part of; pass "
            "that model, with a filter_fn to select a part"
        )


def store(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Store a record in a copy of the config of a ``transformers`` model; models share their config when built.

    All parts of the model that shared the old config, or have a record of their own, get the copy. A model around this
    one keeps its config.
    """
    shared = holder(model)
    own = copy.copy(shared)
    setattr(own, _ATTRIBUTE, dict(record))
    for module in model.modules():
        config = module.__dict__.get("config")
        if config is shared or (type(config) is type(own) and hasattr(config, _ATTRIBUTE)):
            module.__dict__["config"] = own


def found_in(model: nn.Module) -> Mapping[str, Any]:
    """Return the record in a model's config; raise ValueError if there is none."""
    found: Mapping[str, Any] | None = getattr(holder(model), _ATTRIBUTE, None)
    if found is None:
        raise ValueError(
            f"restore: this {type(model).__name__} has no config with a record; pass the record that ad.record returned"
        )
    return found


def mark(model: nn.Module) -> None:
    """Give a converted model a buffer that a plain model lacks, so that loading its weights into one raises an error.

    Loading the weights of a plain model into the converted one still works.
    """
    if _MARK not in model._buffers:
        model.register_buffer(_MARK, torch.ones((), dtype=torch.uint8))
        model.register_load_state_dict_post_hook(_forgive)  # type: ignore[no-untyped-call]


def _forgive(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [key for key in keys.missing_keys if key.rpartition(".")[2] != _MARK]


def forget(model: nn.Module) -> None:
    """Remove the buffer and the record from a model without converted layers."""
    model._buffers.pop(_MARK, None)
    for key in [key for key, hook in model._load_state_dict_post_hooks.items() if hook is _forgive]:
        del model._load_state_dict_post_hooks[key]
    if hasattr(holder(model), _ATTRIBUTE):
        delattr(holder(model), _ATTRIBUTE)
