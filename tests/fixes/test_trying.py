"""Trying fixes: what is compared, and re-runs in processes of their own."""

import math
from pathlib import Path

import pytest

import steepest
from steepest import api
from steepest.cli.diagnose import show
from steepest.fixes import Limits, Surroundings, rerun, try_fixes, trying
from steepest.fixes.intervention import Intervention
from steepest.fixes.outcome import Outcome, compare
from steepest.fixes.steps import ScaleRate
from steepest.results.cause import Cause
from steepest.results.finding import Finding, Severity
from steepest.watch.script import run_script

SCRIPT = """
import sys
import torch
torch.manual_seed(0)
rate = float(sys.argv[1])
x = torch.randn(60, 4)
y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=rate)
for epoch in range(10):
    for part in torch.randperm(60).split(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x[part]), y[part])
        loss.backward()
        optimizer.step()
print("final loss=%.6f" % loss.item())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def finding(cause: Cause) -> Finding:
    return Finding(cause, Severity.ERROR, 0.8, (), "change it")


def planned(monkeypatch: pytest.MonkeyPatch, plans: dict[Cause, tuple[Intervention, ...]]) -> None:
    monkeypatch.setattr(trying, "candidates", lambda cause, records: plans.get(cause, ()))


def test_a_rerun_without_intervention_has_the_losses_of_the_run_bit_by_bit(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = run_script(script, ["0.01"]).run
    again = rerun(Surroundings(str(script), ("0.01",)), None, None, 120)
    assert again.losses == tuple(p.value for p in seen.losses)
    assert again.output == capsys.readouterr().out
    assert again.outcome is not None and again.outcome.to_json() == Outcome.of(seen.measurements()).to_json()


def test_only_the_fix_that_helped_is_recommended(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(monkeypatch, {Cause.LR_TOO_HIGH: (ScaleRate(0.1),), Cause.LR_TOO_LOW: (ScaleRate(30.0),)})
    where = Surroundings(str(script), ("0.003",))
    records = run_script(script, ["0.003"]).run.measurements()
    said: list[str] = []
    findings = (finding(Cause.LR_TOO_HIGH), finding(Cause.BAD_LABELS), finding(Cause.LR_TOO_LOW))
    judged, attempts = try_fixes(where, findings, records, Limits(runs=2), said.append)
    assert [f.cause for f in judged] == [Cause.BAD_LABELS, Cause.LR_TOO_LOW, Cause.LR_TOO_HIGH]
    hopeless, helped, useless = (f.trial for f in judged)
    assert helped is not None and helped.helped and helped.after is not None and helped.before is not None
    assert helped.after < 0.2 * helped.before and helped.intervention == "the step size times 30"
    assert useless is not None and not useless.helped and useless.after is not None
    assert hopeless is not None and not hopeless.helped and hopeless.after is None and "labels" in hopeless.remark
    assert len(attempts) == 2 and len(said) == 4
    assert attempts[1].output.startswith("final loss=")


def test_trials_in_the_diagnosis_of_a_script(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    planned(monkeypatch, {Cause.LR_TOO_LOW: (ScaleRate(30.0),)})
    monkeypatch.setattr(api, "judge", lambda run: (finding(Cause.LR_TOO_LOW), finding(Cause.BAD_LABELS)))
    found = steepest.diagnose(script, ["0.003"], try_fixes=True)
    trial = found.to_json()["findings"][0]["trial"]
    assert trial["helped"] and trial["metric"] == "training loss" and trial["after"] < trial["before"]
    show(found)
    said = capsys.readouterr().err
    assert "tried: the step size times 30: training loss" in said and "it helped: recommended" in said
    assert "not tried: no hook can mend labels" in said


def test_a_rerun_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    attempt = rerun(Surroundings(str(slow), ()), ScaleRate(0.1), Outcome(1.0), 1.0)
    assert "longer than 1 s" in attempt.trouble and attempt.outcome is None and not attempt.helped
    assert attempt.seconds < 60
    assert attempt.trial().remark == attempt.trouble


def test_a_rerun_that_fails_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise KeyError('no data')\n", encoding="utf-8")
    attempt = rerun(Surroundings(str(broken), ()), ScaleRate(0.1), Outcome(1.0), 120)
    assert attempt.trouble == "the run failed: KeyError: 'no data'"
    assert not attempt.trial().helped


def ended(**values: float) -> Outcome:
    names = {"held": "held_accuracy", "n": "held_count"}
    return Outcome(**{names.get(k, k): v for k, v in values.items()})


@pytest.mark.parametrize(
    ("before", "after", "other_loss", "metric", "helped"),
    [
        (ended(loss=1.0, noise=0.01), ended(loss=0.5, noise=0.01), False, "training loss", True),
        (ended(loss=1.0, noise=0.3), ended(loss=0.5, noise=0.3), False, "training loss", False),
        (ended(loss=1.0), ended(loss=0.97), False, "training loss", False),
        (ended(loss=math.nan, finite=False), ended(loss=0.5), False, "training loss", True),
        (ended(loss=1.0), ended(loss=math.nan, finite=False), False, "training loss", False),
        (ended(loss=1.0, accuracy=0.5, count=99), ended(loss=9.0, accuracy=0.9, count=99), True, "accuracy in training", True),
        (ended(loss=1.0, accuracy=0.5, count=99), ended(loss=9.0, accuracy=0.6, count=99), True, "accuracy in training", False),
        (ended(loss=1.0), ended(loss=0.1), True, None, False),
        (ended(loss=1.0, held=0.5, n=400), ended(loss=2.0, held=0.9, n=400), False, "held-out accuracy", True),
        (ended(loss=1.0, held=0.9, n=400), ended(loss=0.1, held=0.5, n=400), False, "held-out accuracy", False),
        (ended(loss=1.0, held=0.50, n=50), ended(loss=0.2, held=0.55, n=50), False, "training loss", True),
        (ended(loss=1.0, held=0.50, n=50), ended(loss=1.0, held=0.55, n=50), False, "held-out accuracy", False),
        (ended(loss=1.0, held_error=2.0), ended(loss=0.1, held_error=4.0), False, "held-out squared error", False),
        (ended(error=2.0), ended(error=1.0), True, "squared error in training", True),
    ],
)  # fmt: skip
def test_what_counts_as_help(before: Outcome, after: Outcome, other_loss: bool, metric: str | None, helped: bool) -> None:
    verdict = compare(before, after, other_loss)
    assert (None if verdict is None else verdict.metric) == metric
    assert (verdict is not None and verdict.helped) == helped
