"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared():
    """The folder of networks and data that are not part of the repository."""
    folder = Path(os.environ.get("STEEPEST_SHARED", Path(__file__).resolve().parents[1] / "../shared"))
    if not (folder / "nets").is_dir():
        pytest.skip(f"there is no {folder}/nets: set STEEPEST_SHARED to run this")
    return folder.resolve()
