"""Ctrl-C: the best so far is proven and written, with exit code 4."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from steepest.numerics.deadline import Deadline


def test_a_deadline_passes_at_its_time_or_when_asked():
    stop = Deadline()
    assert not stop.passed() and stop.left() == float("inf")
    soon = stop.within(100.0)
    assert not soon.passed() and 99 < soon.left() <= 100 and soon.share(0.5).left() <= 50
    assert stop.within(0.0).passed()
    stop.stop("because")
    assert soon.passed() and soon.left() == 0.0


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_first_interrupt_writes_what_is_known(tmp_path):
    (tmp_path / "wide.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    layers = []\n"
        "    for m, n in ((200, 300), (300, 300), (300, 300), (300, 10)):\n"
        "        layers += [torch.nn.Linear(m, n), torch.nn.ReLU()]\n"
        "    return torch.nn.Sequential(*layers[:-1])\n"
    )
    command = [sys.executable, "-m", "steepest.cli.main", "bound", "wide:net", "--input-shape", "200"]
    run = subprocess.Popen(
        [*command, "--effort", "high", "--json", "-o", "cert.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    time.sleep(12 if torch.get_num_threads() > 1 else 20)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 4, err
    bracket = json.loads(out)
    assert 0 < bracket["lower"] <= bracket["upper"] and bracket["checked"] and bracket["limited"]
    assert (tmp_path / "cert.json").exists()
    assert b"finishing with what is known" in err
