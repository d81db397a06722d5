"""Scripts under observation: output, exit code and traceback are their own; bad ones get one sentence."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import steepest
from steepest.cli import diagnose as cli
from steepest.errors import UsageError
from steepest.results import Cause, Evidence, Finding, Severity
from steepest.results.diagnosis import Ending
from steepest.watch.script import run_script

TRAIN = """
    import os, sys
    import numpy as np
    import torch
    torch.manual_seed(int(os.environ.get("SEED", 0)))
    np.random.seed(0)
    x = torch.tensor(np.random.randn(32, 4), dtype=torch.float32)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(20):
        optimizer.zero_grad()
        loss = ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()
        loss.backward()
        optimizer.step()
        print(step, loss.item().hex())
    print(torch.rand(1).item().hex(), np.random.rand().hex())
    print("to the side", file=sys.stderr)
"""


@pytest.fixture
def write(tmp_path):
    def save(text, name="script.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return save


def python(*arguments, cwd=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def command(*arguments, cwd=None):
    return python("-m", "steepest.cli.main", "diagnose", *arguments, cwd=cwd)


def test_output_of_an_observed_script_is_its_own(write):
    script = write(TRAIN)
    alone, observed = python(script), command(script)
    assert alone.returncode == observed.returncode == 0
    assert observed.stdout == alone.stdout
    assert observed.stderr.startswith(alone.stderr)
    said = observed.stderr.removeprefix(alone.stderr)
    assert said.startswith(f"steepest: {Ending.TRAINED.value}\nsteepest: ")


def test_json_does_not_mix_with_output_of_any_level(write):
    script = write(TRAIN + "    os.write(1, b'low level')\n    os.system('echo a child')\n")
    observed = command(script, "--json", "--", "--json")
    assert observed.returncode == 0
    found = json.loads(observed.stdout)
    assert isinstance(found["findings"], list) and found["steps"] == len(found["losses"]) == 20
    assert found["ending"] == Ending.TRAINED.value
    assert "low level" in observed.stderr and "a child" in observed.stderr and "19 0x" in observed.stderr


def test_traceback_and_exit_code_of_a_script_that_fails(write):
    script = write(
        """
        import torch
        net = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        def step():
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(torch.randn(4, 2)), torch.zeros(4, 1)).backward()
            optimizer.step()
        step()
        try:
            torch.nn.functional.mse_loss(net(torch.ones(1, 2)), "no tensor")
        except Exception as error:
            raise ValueError("the script's own") from error
        """
    )
    alone, observed = python(script), command(script)
    assert alone.returncode == observed.returncode == 1

    assert str(Path(steepest.__file__).parent) not in observed.stderr and "importlib" not in observed.stderr
    assert observed.stderr.startswith(alone.stderr)
    assert Ending.CRASHED.value in observed.stderr


ENDINGS = {
    "no training": ("print('hello')", Ending.NO_BACKWARD, 0),
    "early exit": ("import sys\nprint('bye')\nsys.exit(7)", Ending.EXITED_EARLY, 7),
    "exit with a message": ("import sys\nsys.exit('a reason')", Ending.EXITED_EARLY, 1),
    "exit without a code": ("import sys\nsys.exit()", Ending.EXITED_EARLY, 0),
    "early crash": ("1 / 0", Ending.CRASHED_EARLY, 1),
    "no step": ("import torch\nw = torch.nn.Linear(2, 1)\nfor _ in range(3): w(torch.ones(1, 2)).sum().backward()", Ending.NO_STEP, 0),
    "interrupted": ("raise KeyboardInterrupt", Ending.INTERRUPTED, 130),
    "late exit": (textwrap.dedent(TRAIN) + "\nsys.exit(3)", Ending.TRAINED, 3),
    "late crash": (textwrap.dedent(TRAIN) + "\n1 / 0", Ending.CRASHED, 1),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_endings(write, capfd, case):
    text, ending, code = ENDINGS[case]
    found = steepest.diagnose(write(text))
    assert (found.ending, found.exit_code) == (ending, code)
    printed = capfd.readouterr()
    if case == "exit with a message":
        assert printed.err == "a reason\n"
    if "crash" in case:
        shown = printed.err.removeprefix("to the side\n")
        assert shown.startswith("Traceback (most recent call last):\n  File ") and shown.count("\n") <= 5
        assert printed.err.endswith("ZeroDivisionError: division by zero\n")
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", "is not a Python script: invalid syntax, line 1"),
        ("x = 1\x00", "is not a Python script: source code string cannot contain null bytes"),
        (None, "there is no script"),
    ],
)
def test_what_cannot_be_run(write, tmp_path, text, message):
    script = tmp_path / "missing.py" if text is None else write(text)
    with pytest.raises(UsageError, match=message):
        steepest.diagnose(script)
    with pytest.raises(UsageError, match="is a folder"):
        steepest.diagnose(tmp_path)


def test_the_command_says_so_in_one_line(tmp_path):
    observed = command(tmp_path / "missing.py")
    assert observed.returncode == 2 and observed.stdout == ""
    assert observed.stderr.count("\n") == 1 and "Traceback" not in observed.stderr


def test_a_script_sees_what_python_gives_it(write, tmp_path, capsys):
    write("VALUE = 42", "neighbour.py")
    script = write(
        """
        import sys, pickle, __main__
        from neighbour import VALUE
        class Mine: pass
        print(__name__, VALUE, sys.argv[1:], __file__, sys.path[0], type(pickle.loads(pickle.dumps(Mine()))) is Mine, __main__.VALUE)
        print(__annotations__, __doc__, __spec__, __package__)
        """
    )
    before = (sys.modules["__main__"], sys.argv, sys.path)
    ran = run_script(script, ["--rate", "3"])
    assert ran.exit_code == 0
    observed = capsys.readouterr().out
    assert observed == python(script, "--rate", "3").stdout
    assert (sys.modules["__main__"], sys.argv, sys.path) == before


def test_threads_of_a_script_are_waited_for(write):
    body = textwrap.indent(textwrap.dedent(TRAIN), "    ")
    script = write(f"import threading, time\ndef train():\n    time.sleep(0.2)\n{body}\nthreading.Thread(target=train).start()\n")
    ran = run_script(script)
    assert ran.ending is Ending.TRAINED and ran.run.steps == 20


def test_a_forked_child_reports_nothing(write, capfd):
    ran = command(
        write(TRAIN + "    pid = os.fork()\n    if pid == 0: sys.exit(5)\n    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n")
    )
    assert ran.stdout.endswith("\n5\n") and ran.returncode == 0
    assert ran.stderr.count("steepest:") <= 2


def test_strict(write, monkeypatch, capfd):
    evidence = Evidence("largest step", 12.5, 2.0, "a paper", "net.0")
    script = str(write(TRAIN))
    for strict, severity, code in ((False, Severity.ERROR, 0), (True, Severity.ERROR, 1), (True, Severity.WARNING, 0)):
        finding = Finding(Cause.LR_TOO_HIGH, severity, 0.9, (evidence,), "divide the rate by ten")
        monkeypatch.setattr("steepest.api.judge", lambda run, finding=finding: (finding,))
        with pytest.raises(SystemExit) as ended:
            cli.diagnose(script, strict=strict)
        assert ended.value.code == code
    printed = capfd.readouterr().err
    assert "1. lr_too_high (error): " in printed and "largest step at net.0: 12.5" in printed and "fix: divide the rate by ten" in printed
    failing = str(write(TRAIN + "    sys.exit(9)\n"))
    with pytest.raises(SystemExit) as ended:
        cli.diagnose(failing, strict=True)
    assert ended.value.code == 9


def test_the_page(write, tmp_path, monkeypatch, capfd):
    script = write(TRAIN + "    os.chdir('/')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.diagnose(str(script), page=Path("page.html"))
    assert "script.py" in (tmp_path / "page.html").read_text()
    capfd.readouterr()
    with pytest.raises(UsageError, match="there is no folder"):
        cli.diagnose(str(script), page=Path("missing/page.html"))
    assert capfd.readouterr().out == ""


@pytest.mark.shared
@pytest.mark.parametrize("name", ["p018_ring_gan", "p101_two_boxes"])
def test_shared_scripts_print_the_same_losses(shared, name):
    script = shared / "faults" / f"{name}.py"
    if not script.exists():
        pytest.skip(f"there is no {script}")
    assert command(script).stdout == python(script).stdout
