"""Fixtures that every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, beside the checkout; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("WEBTEXT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"real data is not at {folder}; set WEBTEXT_SHARED_DATA to where it is")
    return folder
