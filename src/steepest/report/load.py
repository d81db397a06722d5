"""Reads results for the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steepest.errors import ModelError

FORMATS = (
    "steepest-audit/1",
    "steepest-bracket/1",
    "steepest-certification/1",
    "steepest-diagnosis/1",
    "steepest-generalisation/1",
    "steepest-race/1",
    "steepest-study/1",
)


def load_result(path: Path) -> dict[str, Any]:
    """The JSON of an audit, a bracket, a diagnosis, a generalisation bound, a race or a study.

    Raises:
        ModelError: where it is missing, not JSON, or of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a result: it is not valid JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") not in FORMATS:
        found = content.get("format") if isinstance(content, dict) else None
        raise ModelError(f"{path} has format {found!r}; known are {', '.join(FORMATS)}: give audit.json, or what --json prints")
    return content


def _refuse(name: str) -> float:
    raise ValueError(f"{name} has no place in it")
