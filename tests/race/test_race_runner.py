"""Trials in processes and on disk: nothing is lost, nothing runs twice."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import steepest
from race_tasks import SEEN
from steepest.errors import LimitError
from steepest.jobs import cluster, local
from steepest.numerics.deadline import Deadline
from steepest.race.runner import Runner
from steepest.race.store import Store
from steepest.race.task import fingerprint
from steepest.race.trial import Setting

HERE = Path(__file__).resolve().parents[1]
OPTIONS = {"optimizers": ["sgd"], "trials": 3, "seeds": 2}


def _setting(task="race_tasks:tiny", seed=0, steps=4):
    return Setting(task, fingerprint(task), None, "sgd", (("lr", 0.1),), seed, steps, 2)


@pytest.fixture
def at_home(monkeypatch):
    monkeypatch.chdir(HERE)


def test_what_is_on_disk_does_not_run_again(tmp_path, at_home):
    first = steepest.race("race_tasks:tiny", folder=tmp_path, **OPTIONS)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 20 and not [f for f in files if f.name.startswith(".")]
    SEEN.clear()
    again = steepest.race("race_tasks:tiny", folder=tmp_path, **OPTIONS)
    # The look before the first step is the only one.
    assert len(SEEN) == 1
    assert again.contests == first.contests
    files[0].write_text("{")
    files[1].unlink()
    SEEN.clear()
    assert steepest.race("race_tasks:tiny", folder=tmp_path, **OPTIONS).contests[0].target == first.contests[0].target
    assert len(SEEN) == 1 + 2 * 10
    SEEN.clear()
    steepest.race("race_tasks:tiny", folder=tmp_path, fresh=True, **OPTIONS)
    assert len(SEEN) > 20 * 10


def test_every_part_of_a_setting_counts(tmp_path):
    base = _setting()
    others = [_setting(seed=1), _setting(steps=5), _setting("race_tasks:slow")]
    assert len({s.digest for s in [base, *others]}) == 4
    assert _setting().digest == base.digest


def test_forgetting_touches_nothing_else(tmp_path):
    (tmp_path / "notes.json").write_text("mine")
    Store(tmp_path).clear()
    assert (tmp_path / "notes.json").read_text() == "mine"


def test_equal_settings_run_once_and_order_is_kept(at_home):
    SEEN.clear()
    trials = Runner().run([_setting(seed=k) for k in (2, 0, 2, 1)], "")
    assert [t.seed for t in trials] == [2, 0, 2, 1] and len(SEEN) == 3 * 4


def test_any_executor_will_do(at_home):
    settings = [_setting(seed=k) for k in range(5)]
    with ThreadPoolExecutor(1) as pool:
        spread = Runner(lambda: pool).run(settings, "")
        assert pool.submit(int).result() == 0
    here = Runner().run(settings, "")
    assert [[e.value for e in t.evaluations] for t in spread] == [[e.value for e in t.evaluations] for t in here]


def test_stopping_keeps_what_is_finished(tmp_path, at_home):
    stop = Deadline()
    told = []

    def tell(stage, fraction):
        told.append(fraction)
        if len(told) == 6:
            stop.stop("enough")

    with pytest.raises(LimitError, match=r"5 of \d+ trials are kept"):
        steepest.race("race_tasks:tiny", folder=tmp_path, progress=tell, stop=stop, **OPTIONS)
    assert len(list(tmp_path.glob("*.json"))) == 5


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_worker_loses_nothing(tmp_path, at_home):
    runner = Runner(local(2), Store(tmp_path))
    settings = [_setting("race_tasks:slow", seed=k, steps=30) for k in range(6)]
    killed = []

    def tell(stage, fraction):
        pool = runner._pool
        if not killed and pool is not None:
            killed.extend(pool._processes)
            os.kill(killed[0], signal.SIGKILL)

    runner.tell = tell
    runner.total = len(settings)
    # The first call comes before there is a pool, the second after the first trial.
    trials = runner.run(settings, "")
    runner.close()
    assert killed and [t.seed for t in trials] == list(range(6))
    assert len(list(tmp_path.glob("*.json"))) == 6


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_race_goes_on(tmp_path):
    command = [sys.executable, "-m", "steepest.cli.main", "race", "race_tasks:slow", "--optimizers", "sgd"]
    command += ["--trials", "4", "--seeds", "2", "--jobs", "2", "--json", "-o", str(tmp_path)]
    run = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    trials = tmp_path / "trials"
    until = time.monotonic() + 120
    while time.monotonic() < until and len(list(trials.glob("*.json"))) < 3:
        time.sleep(0.05)
    # As a terminal does: to the whole group.
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=90)
    assert run.returncode == 4, err
    assert b"the same command goes on from there" in err
    kept = {f: f.read_bytes() for f in trials.glob("*.json")}
    assert len(kept) >= 3 and not (tmp_path / "race.json").exists()
    done = subprocess.run(command, cwd=HERE, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "race.json").read_text())
    assert all(f.read_bytes() == content for f, content in kept.items())
    assert "</html>" in (tmp_path / "race.html").read_text()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_cluster_survives_the_death_of_a_worker(tmp_path, at_home, monkeypatch):
    distributed = pytest.importorskip("dask.distributed")

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    settings = [_setting("race_tasks:slow", seed=k, steps=30) for k in range(8)]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as workers:
        runner = Runner(cluster(workers.scheduler_address), Store(tmp_path), total=len(settings))
        killed = []

        def tell(stage, fraction):
            if fraction and not killed:
                killed.append(next(iter(workers.workers.values())).process.pid)
                os.kill(killed[0], signal.SIGKILL)

        runner.tell = tell
        trials = runner.run(settings, "")
        runner.close()
    assert killed and [t.seed for t in trials] == list(range(8))
    here = Runner().run(settings[:1], "")
    assert [e.value for e in trials[0].evaluations] == [e.value for e in here[0].evaluations]
