"""Trainers of other libraries under observation; skipped where they are not installed."""

import logging

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import steepest
from nosy import Nosy


@pytest.mark.filterwarnings("ignore")
def test_lightning():
    lightning = pytest.importorskip("lightning")
    logging.getLogger("lightning").setLevel("ERROR")

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.losses = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), []

        def training_step(self, batch, _):
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch, _):
            self.losses.append((self.net(batch[0]).argmax(1) == batch[1]).float().mean().item())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    def train():
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(96, 6), torch.randint(0, 3, (96,)))
        model = Model()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet)
        trainer.fit(model, DataLoader(data, 16, shuffle=True), DataLoader(data, 32))
        return model.losses

    alone = train()
    probe = Nosy()
    with steepest.watch([probe]) as run:
        observed = train()
    assert observed == alone
    assert run.notes == () and run.steps == 12
    assert [s["cleared"] for s in probe.of("after_step")] == [None] + [True] * 11
    assert len(probe.of("comparison")) >= 6


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Data(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, i):
            words = torch.randint(0, 50, (8,), generator=torch.Generator().manual_seed(i))
            return {"input_ids": words, "labels": torch.tensor(i % 2)}

    def train():
        torch.manual_seed(0)
        size = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        model = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=2, **size))
        options = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=2,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        trainer = transformers.Trainer(model=model, args=options, train_dataset=Data())
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    alone = train()
    probe = Nosy()
    with steepest.watch([probe]) as run:
        observed = train()
    assert observed == alone
    assert run.notes == () and (run.steps, run.backwards) == (8, 16)
    assert [s["backwards"] for s in probe.of("after_step")] == [2] * 8
    assert {f["name"] for f in probe.of("forward")} == {"BertForSequenceClassification"}
