"""The recipes of examples/ reach what docs/training.md says, and small versions of the others run."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHARED = Path(os.environ.get("STEEPEST_SHARED", "../shared")) / "data"


def run(name, *arguments, monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out


def accuracies(text):
    constant = float(re.search(r"proven constant ([\d.]+)", text)[1])
    clean, certified = map(float, re.search(r"clean ([\d.]+), certified at \S+ ([\d.]+)", text).groups())
    return constant, clean, certified


def test_digits(monkeypatch, capsys):
    constant, clean, certified = accuracies(run("digits_certified.py", monkeypatch=monkeypatch, capsys=capsys))
    assert constant <= 1.0 and clean >= 0.97 and certified >= 0.90


def test_a_gan_and_a_regularised_network_run(monkeypatch, capsys):
    text = run("gan_spectral.py", "--steps", "8", monkeypatch=monkeypatch, capsys=capsys)
    assert float(re.search(r"and ([\d.e-]+)$", text.strip())[1]) <= 1.0
    text = run("local_regularised.py", "--epochs", "2", "--inputs", "2", monkeypatch=monkeypatch, capsys=capsys)
    assert text.count("median radius") == 2


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets are not here")
def test_fashion_and_cifar(monkeypatch, capsys):
    text = run("fashion_certified.py", str(SHARED / "fashion-mnist"), "--minutes", "0.8", monkeypatch=monkeypatch, capsys=capsys)
    constant, clean, certified = accuracies(text)
    assert constant <= 1.0 and clean >= 0.85 and certified >= 0.70
    files = [str(SHARED / "cifar10" / name) for name in ("train_1.npz", "test_first1000.npz")]
    constant, clean, certified = accuracies(run("cifar_certified.py", *files, "--minutes", "0.2", monkeypatch=monkeypatch, capsys=capsys))
    assert constant <= 1.0 and clean > 0.3 and certified > 0.15
