"""The table of the documentation: its imports import, and it has every method."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from steepest.optim.catalogue import catalogue

PAGE = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"
IMPORTS = sorted(set(re.findall(r"`(from [a-z_.]+ import [\w, ]+)`", PAGE.read_text())))
LINES = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and "`from " in line]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
TITLES = """
Batch gradient descent;Stochastic gradient descent;Mini-batch gradient descent;Momentum;Nesterov;Adagrad;Adadelta;RMSprop;Adam;AdaMax;
Nadam;AMSGrad;AdamW;RAdam;Lion;LARS;LAMB;SAM;Shampoo;K-FAC;L-BFGS;Schedule-free;Warm-up;Step;Cosine with restarts;Cyclical;One cycle;
Shuffling;Curriculum;Early stopping;Gradient noise;Clipping;Barzilai-Borwein;Polyak step;Armijo;AdaFom;AdaDelay;SVRG;SAGA;
Stochastic Polyak"""


@pytest.mark.parametrize("line", IMPORTS)
def test_imports(line):
    if find_spec(line.split()[1].split(".")[0]) is None:
        pytest.skip("its extra is not installed")
    exec(line, {})


def test_table_and_catalogue_agree():
    methods = [row for row in ROWS if len(row) == 5 and row[1]]
    named = {row[1].strip("`") for row in methods}
    assert named == set(catalogue())
    for _, name, imports, extra, source in methods:
        method = catalogue()[name.strip("`")]
        module, _, cls = method.import_path.rpartition(".")
        assert f"from {module} import {cls}" in imports and extra.strip("`") == method.extra and source
    assert all(any(row[1].strip("`") == m.name and row[4] == m.source for row in methods) for m in catalogue().values())


@pytest.mark.parametrize("title", [title.strip() for title in TITLES.split(";")])
def test_what_the_survey_covers_has_a_row(title):
    assert any(row[0].startswith(title) for row in ROWS)
