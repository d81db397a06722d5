from __future__ import annotations

import json

import torch
from torch import nn
from torch.optim import SGD, Adam

import steepest
from steepest.monitors.observed import AdamTypeRecord
from steepest.results.convergence import Verdict


def test_a_watched_run_has_a_report_per_adam_type_optimizer() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    net, other = nn.Linear(5, 1), nn.Linear(5, 1)
    with steepest.watch() as run:
        optimizers = Adam(net.parameters(), 0.01), SGD(other.parameters(), 0.01)
        for _ in range(260):
            for model, optimizer in zip((net, other), optimizers, strict=True):
                optimizer.zero_grad()
                (model(x).squeeze(1) - x.sum(1)).square().mean().backward()
                optimizer.step()
    record = run.get(AdamTypeRecord)
    assert record is not None and len(record.reports) == 1, run.notes
    report = record.reports[0]
    assert report.method == "Adam" and report.steps == 260 and report.verdict is Verdict.NOT_GUARANTEED
    assert all(w.loss is not None for w in report.windows[1:])
    json.dumps(record.to_json(), allow_nan=False)
    # Nothing stays on the optimizer.
    assert not optimizers[0]._optimizer_step_pre_hooks


def test_a_run_that_fails_has_a_note() -> None:
    x = nn.Parameter(torch.tensor([1.0]))
    with steepest.watch() as run:
        optimizer = Adam([x], 0.1, (0.0, 0.1))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
        for t in range(1023):
            optimizer.zero_grad()
            # The loss is the mean of eleven functions, the gradient that of one of them.
            (x.square().sum() / 22).backward()
            x.grad = 11.0 * x.detach() if t % 11 == 0 else -x.detach()
            optimizer.step()
            schedule.step()
    assert any("failed, with evidence" in note for note in run.notes), run.notes
