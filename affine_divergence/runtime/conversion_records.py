"""The record of a conversion: its form, how it is read and checked, and where a model of transformers keeps it.

    {"schema": "affine-divergence.conversion/1", "model": "GPT2LMHeadModel",
     "layers": [{"name": "lm_head", "from": "Linear", "to": "NormLike", "settings": {"kappa": 1.0, ..}}, ..]}

``name`` is that of a layer in the model, ``settings`` are arguments of its class, which checks them.
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
    """One converted layer: its name in the model, the names of its classes, and the settings that torch's lacks."""

    name: str
    old: str
    new: str
    settings: dict[str, Any]


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Return the settings of a layer of this package that a record holds."""
    words = CAPTURED_SETTINGS if is_captured(type(module)) else _SETTINGS
    return {word: module.__dict__[word] for word in words if word in module.__dict__}


def written(model: nn.Module, layers: Sequence[Entry]) -> dict[str, Any]:
    """Return the record of converted layers as JSON has it."""
    found = [{"name": e.name, "from": e.old, "to": e.new, "settings": e.settings} for e in layers]
    return {"schema": SCHEMA, "model": type(model).__name__, "layers": found}


def read(model: nn.Module, record: object) -> tuple[list[Entry], str]:
    """Return the layers of a record, and what stands before their names in ``model``.

    A record of a part of the model is read for that part, if there is one module of the recorded class; of a model of
    transformers with a head, for a body without one.

    Raises:
        TypeError: a record that is no mapping.
        ValueError: a record of another form, or of layers that the model does not have.
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
        f"restore: the record names a layer {missing!r} that this {type(model).__name__} does not have; it was made of "
        f"a {record.get('model')}: give a model built as that one was"
    )


def _without(name: str, prefix: str) -> str | None:
    return name[len(prefix) :] if name.startswith(prefix) else None


def _entry(given: object) -> Entry:
    """Return one layer of a record; ValueError if it has another form."""
    if isinstance(given, Mapping) and set(given) == {"name", "from", "to", "settings"}:
        name, old, new, settings = (given[word] for word in ("name", "from", "to", "settings"))
        if all(isinstance(word, str) for word in (name, old, new)) and isinstance(settings, Mapping):
            unknown = next((word for word in settings if word not in _SETTINGS), None)
            if unknown is None:
                return Entry(name, old, new, dict(settings))
            raise ValueError(f"restore: {name!r} has a setting {unknown!r}; known are {', '.join(_SETTINGS)}")
    raise ValueError(f"restore: {given!r} is no layer of a record, which has name, from, to and settings")


def holder(model: nn.Module) -> Any:
    """Return the config of a model of transformers, which is saved with it; None for another model."""
    there = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    return model.config if there is not None and isinstance(model, there) else None


def check_holder(name: str, model: nn.Module, converted: bool) -> None:
    """Raise ValueError where what ``name`` does to a part of a model would make the record of the whole wrong.

    Both share a config. Warn where ``converted``, whether a layer is, belies the record: that was not restored.
    """
    found = getattr(holder(model), _ATTRIBUTE, None)
    if found is None:
        return
    kind = type(model).__name__
    if not converted:
        warnings.warn(
            f"{name}: the config of this {kind} records a conversion that its layers do not show; ad.restore(model) "
            "makes the one that is recorded",
            stacklevel=3,
        )
    elif found["model"] not in {type(module).__name__ for module in model.modules()}:
        raise ValueError(
            f"{name}: the config of this {kind} holds the record of a {found['model']} of which it is a part; give "
            "that one, with a filter_fn where only a part is meant"
        )


def store(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Put a record into the config of a model of transformers, which then is its own: models share one when built.

    A part that was converted before shares it again; what is converted as a part is not known to a model around it.
    """
    shared = holder(model)
    own = copy.copy(shared)
    setattr(own, _ATTRIBUTE, dict(record))
    for module in model.modules():
        config = module.__dict__.get("config")
        if config is shared or (type(config) is type(own) and hasattr(config, _ATTRIBUTE)):
            module.__dict__["config"] = own


def found_in(model: nn.Module) -> Mapping[str, Any]:
    """Return the record in a model's config; ValueError where there is none."""
    found: Mapping[str, Any] | None = getattr(holder(model), _ATTRIBUTE, None)
    if found is None:
        raise ValueError(
            f"restore: this {type(model).__name__} has no config with a record; give the record that ad.record returned"
        )
    return found


def mark(model: nn.Module) -> None:
    """Give a converted model a buffer that a plain model does not have, so that loading its weights there is noticed.

    Loading the weights of a plain model into the converted one is not hindered.
    """
    if _MARK not in model._buffers:
        model.register_buffer(_MARK, torch.ones((), dtype=torch.uint8))
        model.register_load_state_dict_post_hook(_forgive)  # type: ignore[no-untyped-call]


def _forgive(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [key for key in keys.missing_keys if key.rpartition(".")[2] != _MARK]


def forget(model: nn.Module) -> None:
    """Take the buffer and the record from a model in which nothing is converted any more."""
    model._buffers.pop(_MARK, None)
    for key in [key for key, hook in model._load_state_dict_post_hooks.items() if hook is _forgive]:
        del model._load_state_dict_post_hooks[key]
    if hasattr(holder(model), _ATTRIBUTE):
        delattr(holder(model), _ATTRIBUTE)
