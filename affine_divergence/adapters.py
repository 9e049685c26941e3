"""LoRA on the layers of this package, through peft; ``peft_lora`` holds the layer."""

from __future__ import annotations

from typing import Any

from .modules import AffineLike, NormLike
from .patch_modules import (
    PatchNormConv1d,
    PatchNormConv2d,
    PatchNormConv3d,
    PatchNormConvTranspose1d,
    PatchNormConvTranspose2d,
    PatchNormConvTranspose3d,
)

__all__ = ["check_config", "lora_config"]

_REFUSED = {
    "use_dora": "divides by the norm of the merged weight",
    "lora_bias": "adds a bias that the layer would have to scale",
    "use_qalora": "averages the input over groups",
    "alora_invocation_tokens": "skips some tokens",
    "arrow_config": "chooses adapters by the input",
    "fan_in_fan_out": "transposes the weight",
}
"""Settings of LoraConfig whose effect is not ``W + c B A``, and what they do."""


def lora_config(config: Any) -> Any:
    """Register the layers of this package in a ``peft.LoraConfig``, and return it.

    ``get_peft_model(model, lora_config(LoraConfig(target_modules=.., r=..)))`` then wraps each target that is one of them
    in a ``Lora``, whose merge is exact, and other targets as peft does. Convert the model first. Load a saved adapter
    with ``PeftModel.from_pretrained(model, path, config=lora_config(LoraConfig.from_pretrained(path)))``.

    Raises:
        TypeError: if ``config`` is not a LoraConfig.
        ValueError: for a setting that is not a low-rank term of the weight.
    """
    register = getattr(config, "_register_custom_module", None)  # as in peft's guide to custom models
    if register is None:
        raise TypeError(f"lora_config: config is a {type(config).__name__}; give a peft.LoraConfig")
    check_config(config)
    from .peft_lora import Lora  # peft is installed: the caller has its config

    register(dict.fromkeys((AffineLike, NormLike, PatchNormConv1d, PatchNormConv2d, PatchNormConv3d, PatchNormConvTranspose1d, PatchNormConvTranspose2d, PatchNormConvTranspose3d), Lora))
    return config


def check_config(config: Any) -> None:
    """Raise ValueError for a setting of LoraConfig that is not a low-rank term of the weight."""
    for word, does in _REFUSED.items():
        if getattr(config, word, None):
            raise ValueError(
                f"lora_config: {word}={getattr(config, word)!r} {does}, which is not a low-rank term of the weight; leave it out"
            )
    init = config.init_lora_weights
    if init not in (True, False, "gaussian"):
        raise ValueError(f"lora_config: init_lora_weights is {init!r}; choose True, False or 'gaussian'")
