"""Shows the pages of the root causes, which are part of the package, in the documentation as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGES = Path(__file__).resolve().parents[2] / "src" / "steepest" / "causes"
HEADER = """# Root causes

What a finding of `steepest diagnose` may name. `steepest explain CAUSE` prints the same pages.

| cause | what it is |
|---|---|
"""


def on_config(config: Any) -> Any:
    """One entry of the navigation per page, under the one of their list."""
    for entry in config.nav:
        if "Root causes" in entry:
            entry["Root causes"] = ["causes/index.md", *(f"causes/{path.name}" for path in sorted(PAGES.glob("*.md")))]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages where they lie, and their list."""
    rows = ""
    for path in sorted(PAGES.glob("*.md")):
        files.append(File.generated(config, f"causes/{path.name}", abs_src_path=str(path)))
        rows += f"| [`{path.stem}`]({path.name}) | {path.read_text(encoding='utf-8').splitlines()[2]} |\n"
    files.append(File.generated(config, "causes/index.md", content=HEADER + rows))
    return files
