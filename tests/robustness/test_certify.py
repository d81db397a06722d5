"""Batches on disk and in processes: nothing is lost, nothing runs twice, and another run is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import steepest
from steepest.capture.load import load
from steepest.errors import UsageError
from steepest.jobs import cluster, local
from steepest.numerics.deadline import Deadline
from steepest.robustness import batches, certify
from steepest.robustness.batch import EFFORTS, Batch
from steepest.robustness.batches import BatchJob, BatchRunner, BatchStore


def _model(seed=0, width=10):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)).eval()


@pytest.fixture
def data():
    return torch.randn(40, 4, dtype=torch.float64), torch.arange(40) % 3


@pytest.fixture
def few(monkeypatch):
    """Batches of four."""
    monkeypatch.setattr(certify, "together", lambda graph: 4)


def _jobs(count=6, x=None):
    graph = load(_model(), input_shape=(4,)).graph
    x = torch.randn(4 * count, 1, 4, dtype=torch.float64) if x is None else x
    made = [Batch(graph, x[k : k + 4], k, None, 2.0, EFFORTS["fast"], 0, None) for k in range(0, 4 * count, 4)]
    return [BatchJob.of(batch, "network") for batch in made]


def test_what_is_on_disk_does_not_run_again_and_anything_else_does(tmp_path, data, few, monkeypatch):
    x, y = data
    first = steepest.certify(_model(), x, y, folder=tmp_path, effort="fast")
    ran = []
    monkeypatch.setattr(batches, "certify_batch", lambda batch: ran.append(batch.first) or (_ for _ in ()).throw(AssertionError))
    again = steepest.certify(_model(), x, y, folder=tmp_path, effort="fast")
    assert again.inputs == first.inputs and again.certificate["inputs"] == first.certificate["inputs"] and not ran
    monkeypatch.undo()
    monkeypatch.setattr(certify, "together", lambda graph: 4)
    # A damaged file is done again; more inputs go on; other radii of the summary are no other run.
    parts = [p for p in tmp_path.glob("*.json") if "steepest-radii-batch" in p.read_text()]
    assert len(parts) == 10
    parts[0].write_text("{")
    assert steepest.certify(_model(), x, y, folder=tmp_path, effort="fast", radius=0.1).inputs == first.inputs
    for other in (
        {"model": _model(1)},
        {"x": x + 1e-9},
        {"y": (y + 1) % 3},
        {"norm": "inf"},
        {"effort": "normal"},
        {"seed": 1},
    ):
        options = {"model": _model(), "x": x, "y": y, "effort": "fast", **other}
        with pytest.raises(UsageError, match="holds results of another run"):
            steepest.certify(options.pop("model"), options.pop("x"), options.pop("y"), folder=tmp_path, **options)
    fresh = steepest.certify(_model(1), x, y, folder=tmp_path, effort="fast", fresh=True)
    assert fresh.inputs != first.inputs and len(list(tmp_path.glob("*.json"))) == len(parts) + 2


def test_stopping_tells_what_is_done_and_the_rest_follows(tmp_path, data, few):
    x, y = data
    stop = Deadline()

    def tell(stage, fraction):
        if fraction and fraction > 0.35:
            stop.stop("enough")

    part = steepest.certify(_model(), x, y, folder=tmp_path, effort="fast", progress=tell, stop=stop)
    assert len(part.inputs) == 16 and part.asked == 40
    assert steepest.check(part.certificate, _model(), input_shape=(4,)).holds
    whole = steepest.certify(_model(), x, y, folder=tmp_path, effort="fast")
    assert whole.inputs == steepest.certify(_model(), x, y, effort="fast").inputs and whole.inputs[:16] == part.inputs


def test_any_executor_gives_the_same(data, few):
    x, y = data
    with ThreadPoolExecutor(2) as pool:
        spread = steepest.certify(_model(), x, y, effort="fast", executor=pool)
        assert pool.submit(int).result() == 0
    assert spread.inputs == steepest.certify(_model(), x, y, effort="fast").inputs


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_worker_loses_nothing(tmp_path):
    runner = BatchRunner(local(2), BatchStore(tmp_path), total=6)
    killed = []

    def tell(stage, fraction):
        if not killed and runner._pool is not None:
            killed.extend(runner._pool._processes)
            os.kill(killed[0], signal.SIGKILL)

    runner.tell = tell
    jobs = _jobs()
    found = runner.run(jobs, "")
    runner.close()
    assert killed and [one.index for part in found for one in part] == list(range(24))
    assert found == BatchRunner(total=6).run(jobs, "")
    assert len(list(tmp_path.glob("*.json"))) == 6


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_cluster_survives_the_death_of_a_worker(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as workers:
        runner = BatchRunner(cluster(workers.scheduler_address), BatchStore(tmp_path), total=8)
        killed = []

        def tell(stage, fraction):
            if fraction and not killed:
                killed.append(next(iter(workers.workers.values())).process.pid)
                os.kill(killed[0], signal.SIGKILL)

        runner.tell = tell
        jobs = _jobs(8)
        found = runner.run(jobs, "")
        runner.close()
    assert killed and found == BatchRunner(total=8).run(jobs, "")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_run_goes_on(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    layers = [torch.nn.Linear(20, 120), torch.nn.ReLU(), torch.nn.Linear(120, 120), torch.nn.ReLU(), torch.nn.Linear(120, 5)]\n"
        "    return torch.nn.Sequential(*layers)\n"
    )
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(320, 20)), y=np.zeros(320, dtype=int))
    command = [sys.executable, "-m", "steepest.cli.main", "certify", "nets:net", "--data", "d.npz", "--input-shape", "20"]
    command += ["--effort", "fast", "--norm", "inf", "--jobs", "1", "--threads", "1", "--json", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    parts, until = tmp_path / "out/batches", time.monotonic() + 120
    # The manifest, the constant, and a batch.
    while time.monotonic() < until and len(list(parts.glob("*.json"))) < 3:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 4, err
    assert b"the same command goes on from there" in err
    part = json.loads(out)
    assert 32 <= part["count"] < 320 == part["asked"]
    kept = {f: f.read_bytes() for f in parts.glob("*.json")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert whole["count"] == 320 and whole["inputs"][: part["count"]] == part["inputs"]
    assert all(f.read_bytes() == content for f, content in kept.items())
