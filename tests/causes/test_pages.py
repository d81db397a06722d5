"""The pages: one per cause, whole, with thresholds that can be read and code that compiles."""

import ast
import re
from importlib.resources import files

import pytest

from steepest.causes import load_page
from steepest.causes.page import SECTIONS
from steepest.results.cause import Cause

CAUSES = [pytest.param(c, id=c.value) for c in Cause]


def test_there_are_pages_of_causes_alone():
    names = {path.name.removesuffix(".md") for path in files("steepest.causes").iterdir() if path.name.endswith(".md")}
    assert names == {c.value for c in Cause}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_page_has_all_sections(cause):
    page = load_page(cause)
    assert tuple(page.sections) == SECTIONS
    assert page.title
    assert page.text.splitlines()[2] == f"{cause.sentence[0].upper()}{cause.sentence[1:]}."
    for section in SECTIONS:
        assert len(page.sections[section]) > 100
    assert re.findall(r"\d{4}", page.sections["References"]) or "documentation" in page.sections["References"]


@pytest.mark.parametrize("cause", CAUSES)
def test_thresholds_are_comparisons_with_a_number_and_have_a_source(cause):
    header, rule, *rows = [line for line in load_page(cause).sections["Evidence"].splitlines() if line.startswith("|")]
    assert header == "| measured | counts | source |"
    assert set(rule) <= set("|-")
    assert rows
    for row in rows:
        _, measured, counts, source, end = row.split("|")
        assert measured.strip() and source.strip() and not end
        assert counts.strip() == "any" or re.fullmatch(r"(<|<=|=|>=|>) [0-9]+(\.[0-9]+)?(e-?[0-9]+)?( .+)?", counts.strip()), counts


@pytest.mark.parametrize("cause", CAUSES)
def test_the_fix_has_code_before_and_after(cause):
    fix = load_page(cause).sections["Fix"]
    blocks = re.findall(r"```python\n(.*?)```", fix, flags=re.DOTALL)
    # Two columns are read by people alone.
    columns = [re.search(r"# before {4,}# after", block) is not None for block in blocks]
    assert any(columns) or (re.search(r"^# before", fix, flags=re.MULTILINE) and re.search(r"^# after", fix, flags=re.MULTILINE))
    for block, wide in zip(blocks, columns, strict=True):
        if not wide:
            ast.parse(block)


@pytest.mark.parametrize("cause", CAUSES)
def test_other_causes_are_named_as_they_are(cause):
    known = {c.value for c in Cause}
    for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", load_page(cause).sections["When it is not the cause"]):
        assert name in known | {"log_softmax", "cross_entropy", "weight_decay", "no_grad", "mse_loss"}, name
