"""The methods in Lightning's trainer, which hands every step a closure."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.optim import SVRG, AdaDelay, AdaFom, Armijo, BarzilaiBorwein, GradientNoise, StochasticPolyak

lightning = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")


METHODS = [
    (AdaFom, {"lr": 0.2}),
    (AdaDelay, {"lr": 0.2}),
    (SVRG, {"lr": 0.5}),
    (StochasticPolyak, {}),
    (Armijo, {}),
    (BarzilaiBorwein, {"lr": 0.1, "most": 1.0}),
]


class Module(lightning.LightningModule):
    def __init__(self, cls, options):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        self.cls, self.options, self.losses = cls, options, []

    def training_step(self, batch, _):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.losses.append(float(loss.detach()))
        return loss

    def on_train_epoch_start(self):
        if self.cls is SVRG:
            self.optimizers().optimizer.snapshot(
                (nn.functional.cross_entropy(self.net(x), y), len(x)) for x, y in self.trainer.train_dataloader
            )

    def configure_optimizers(self):
        optimizer = self.cls(self.net.parameters(), **self.options)
        self.noise = GradientNoise(optimizer, eta=1e-8)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)}


@pytest.mark.parametrize(("cls", "options"), METHODS, ids=[c.__name__ for c, _ in METHODS])
def test_trains(cls, options, tmp_path):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    data = TensorDataset(x, (x[:, 0] > 0).long())
    module = Module(cls, options)
    trainer = lightning.Trainer(
        max_epochs=10,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(data, batch_size=64))
    assert module.losses[-1] < 0.7 * module.losses[0]
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    assert (tmp_path / "c.ckpt").exists()
