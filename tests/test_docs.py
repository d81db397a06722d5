"""The Python of the documentation runs."""

import re
from pathlib import Path

import pytest

DOCS = [Path(__file__).resolve().parents[1] / "docs" / name for name in ("quickstart.md", "race.md")]


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_python_blocks_run(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
