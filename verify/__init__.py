"""Check the generated layers against their derivation: identities, gradients, training runs, and a report on them.

verify.diagnose(model, batch, loss)      how far the steps of each layer of your model are from ideal
verify.watch(model, every=100)           the self factors while it trains; given an optimizer, also its steps
verify.trainer_callback(every=100)       the same for the Trainer of transformers; lightning_callback for Lightning's
verify.wandb_logger()                    sends the numbers to W&B; also mlflow_logger, tensorboard_logger
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from derive.versions import __version__ as __version__

if TYPE_CHECKING:
    from verify.diagnosis.callbacks import lightning_callback as lightning_callback
    from verify.diagnosis.callbacks import trainer_callback as trainer_callback
    from verify.diagnosis.loggers import mlflow_logger as mlflow_logger
    from verify.diagnosis.loggers import tensorboard_logger as tensorboard_logger
    from verify.diagnosis.loggers import wandb_logger as wandb_logger
    from verify.diagnosis.measure import diagnose as diagnose
    from verify.diagnosis.watch import watch as watch

_HOMES = {
    "diagnose": "verify.diagnosis.measure",
    "watch": "verify.diagnosis.watch",
    "trainer_callback": "verify.diagnosis.callbacks",
    "lightning_callback": "verify.diagnosis.callbacks",
    "tensorboard_logger": "verify.diagnosis.loggers",
    "wandb_logger": "verify.diagnosis.loggers",
    "mlflow_logger": "verify.diagnosis.loggers",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that ``import verify`` loads nothing else."""
    if name not in _HOMES:
        raise AttributeError(f"module 'verify' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
