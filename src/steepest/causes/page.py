"""Reads the page of a root cause."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from steepest.results.cause import Cause

SECTIONS = ("Symptom", "Evidence", "Theory", "Fix", "When it is not the cause", "References")


@dataclass(frozen=True)
class Page:
    """What there is to say about a root cause, in Markdown.

    Args:
        cause: the cause it speaks of.
        title: its heading.
        text: the whole page.
    """

    cause: Cause
    title: str
    text: str

    @property
    def sections(self) -> dict[str, str]:
        """The text under each heading of the second level."""
        parts = re.split(r"^## (.+)$", self.text, flags=re.MULTILINE)[1:]
        return {heading.strip(): body.strip() for heading, body in zip(parts[::2], parts[1::2], strict=True)}

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"cause": self.cause.value, "sentence": self.cause.sentence, "title": self.title, "sections": self.sections}


def load_page(cause: Cause) -> Page:
    """The page of ``cause``; every cause has one, beside this file."""
    text = files("steepest.causes").joinpath(f"{cause.value}.md").read_text(encoding="utf-8")
    return Page(cause, text.splitlines()[0].removeprefix("# ").strip(), text)
