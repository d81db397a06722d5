"""The set of faulty and healthy scripts: labelled in full, neutral in looks, and they run."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from steepest.results.cause import Cause

FAULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "faults"
LABELS = json.loads((FAULTS / "labels.json").read_text())
SCRIPTS = sorted(FAULTS.glob("p*.py"))


def test_every_script_has_a_label():
    assert {p.stem for p in SCRIPTS} == set(LABELS)


def test_every_cause_is_the_main_fault_of_a_script():
    main = Counter(label["faults"][0] for label in LABELS.values() if label["faults"])
    assert set(main) == {c.value for c in Cause}
    assert {c for label in LABELS.values() for c in label["faults"]} <= set(main)


@pytest.mark.parametrize("name", sorted(LABELS))
def test_labels(name):
    label = LABELS[name]
    assert label["healthy"] == (not label["faults"])
    effect = label["effect"]
    if label["healthy"]:
        assert {"metric", "final", "loss", "seed1"} == set(effect)
        if "twin_of" in label:
            assert LABELS[label["twin_of"]]["twin"] == name
        return
    assert LABELS[label["twin"]]["twin_of"] == name
    better = 1 if effect["metric"] in ("test accuracy", "R2") else -1
    for seed in (effect, effect["seed1"]):
        assert better * seed["fixed_final"] > better * float(seed["faulty_final"])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_scripts_say_nothing_of_their_faults(path):
    text = path.read_text()
    compile(text, str(path), "exec")
    assert 20 <= len(text.splitlines()) <= 80
    # What may be named in code (frozen, say) may not be named in a remark; most scripts have none.
    said = " ".join([path.stem, *re.findall(r"#.*|\"\"\".*?\"\"\"", text)]).lower()
    for word in ("fault", "bug", "wrong", "broken", "fix", "healthy", "bad", "good", "should", *(c.value for c in Cause)):
        assert word not in said


@pytest.mark.parametrize("name", ["p215_iris_rows", "p325_digits_denoise"])
def test_scripts_run_and_report_what_the_labels_say(name):
    environment = {**os.environ, "SEED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, FAULTS / f"{name}.py"], env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    found = re.fullmatch(r"final loss=(\S+)( acc=\S+)?", done.stdout.splitlines()[-1])
    assert found
    effect = LABELS[name]["effect"]
    # Other builds of torch round differently.
    assert float(found[1]) == pytest.approx(effect.get("loss", effect.get("faulty_loss")), rel=0.5)
