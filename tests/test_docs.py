"""The Python of the documentation runs."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs"
DOCS = [
    FOLDER / name
    for name in (
        "quickstart.md",
        "diagnosis.md",
        "optimizers.md",
        "monitors.md",
        "distributed.md",
        "race.md",
        "generalisation.md",
        "layers.md",
    )
]


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_python_blocks_run(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
