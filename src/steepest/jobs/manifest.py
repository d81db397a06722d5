"""What a folder of results belongs to, so that another run does not go on in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from steepest.errors import UsageError

_NAME = "run.json"


def require_same(folder: Path, facts: Mapping[str, str], fresh: bool) -> None:
    """Note in a folder what its results belong to, or compare with what is noted there.

    Args:
        folder: made where it is missing.
        facts: what decides the results, by name.
        fresh: whatever is noted there is replaced.

    Raises:
        UsageError: where something differs, or the folder cannot be written into.
    """
    path = folder / _NAME
    try:
        if not fresh and path.exists():
            noted = json.loads(path.read_text(encoding="utf-8"))
            other = [name for name, value in facts.items() if noted.get(name) != value]
            if other:
                raise UsageError(
                    f"{folder} holds results of another run ({', '.join(other)} differ{'s' * (len(other) == 1)}): "
                    "give another folder, or --fresh to begin anew"
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(facts)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: give another folder, or --fresh to begin anew") from error
