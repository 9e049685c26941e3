"""Callbacks and loggers of other libraries, run for real if the extra ``integrations`` is installed."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import verify
from derive.errors import UsageError

WHY = "not installed; the extra `integrations` brings it"


def installed(name):
    return pytest.importorskip(name, reason=f"{name} is {WHY}", exc_type=ImportError)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers(tmp_path):
    transformers = installed("transformers")
    installed("accelerate")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)

        def forward(self, x, labels):
            output = self.net(x)
            return {"loss": F.mse_loss(output, labels), "logits": output}

    torch.manual_seed(0)
    rows = [{"x": torch.randn(4), "labels": torch.randn(2)} for _ in range(24)]
    callback = verify.trainer_callback(every=2)
    settings = transformers.TrainingArguments(
        str(tmp_path), max_steps=5, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True
    )
    model = Model()
    transformers.Trainer(model, settings, train_dataset=rows, callbacks=[callback]).train()
    assert isinstance(callback, transformers.TrainerCallback)
    assert [reading.step for reading in callback.watch.readings] == [0, 2, 4]
    first = callback.watch.readings[0]
    assert first.layers["net"].samples == 4 and first.parts["net"].own == pytest.approx(1)
    assert not model.net._forward_hooks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightnings_trainer_and_its_training_step(tmp_path):
    lightning = installed("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))

        def training_step(self, batch, _):
            loss = F.mse_loss(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(24, 4), torch.randn(24, 2)), batch_size=4)
    callback = verify.lightning_callback(every=2)
    logger = lightning.loggers.CSVLogger(str(tmp_path))
    trainer = lightning.Trainer(
        max_steps=5, callbacks=[callback], logger=logger, log_every_n_steps=1, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, data)
    assert [reading.step for reading in callback.watch.readings] == [0, 2, 4]
    reading = callback.watch.readings[1]
    assert reading.layers["net.0"].samples == 4 and reading.parts["net.2"].update_to_weight > 0
    assert not module.net[0]._forward_hooks and trainer.global_step == 5
    found = verify.diagnose(module, next(iter(data)), lambda model, batch: F.mse_loss(model.net(batch[0]), batch[1]))
    assert found.ok and [layer.name for layer in found.layers] == ["net.0", "net.2"]


def watched(logger):
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with verify.watch(model, every=2, loggers=[logger]) as watch:
        for _ in range(3):
            model(x).sum().backward()
    return watch.readings


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    wandb = installed("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="affdiv", dir=str(tmp_path), mode="offline")
    try:
        readings = watched(verify.wandb_logger())
        assert run.summary["self factor/root/maximum"] == pytest.approx(readings[-1].layers[""].maximum)
    finally:
        run.finish()
    with pytest.raises(UsageError, match=r"call wandb\.init"):
        verify.wandb_logger()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_offline(tmp_path, monkeypatch):
    mlflow = installed("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("affdiv")
    with pytest.raises(UsageError, match=r"call mlflow\.start_run"):
        verify.mlflow_logger()
    with mlflow.start_run() as run:
        readings = watched(verify.mlflow_logger())
    history = mlflow.tracking.MlflowClient().get_metric_history(run.info.run_id, "self factor/root/maximum")
    assert [(m.step, m.value) for m in history] == [(r.step, pytest.approx(r.layers[""].maximum)) for r in readings]


@pytest.mark.parametrize(
    ("make", "module", "message"),
    [
        (verify.lightning_callback, "lightning", "pip install lightning"),
        (verify.trainer_callback, "transformers", "pip install transformers"),
        (verify.wandb_logger, "wandb", "pip install wandb"),
        (verify.mlflow_logger, "mlflow", "pip install mlflow"),
    ],
)
def test_what_is_missing_says_how_to_get_it(make, module, message, monkeypatch):
    for name in (
        module,
        "lightning.pytorch",
        "verify.diagnosis.lightning_callback",
        "verify.diagnosis.trainer_callback",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=message):
        make()
