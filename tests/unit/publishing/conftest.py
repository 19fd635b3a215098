"""Fixtures of the publishing tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Shop


@pytest.fixture
def shop(tiny_snapshot: Path, tmp_path: Path) -> Shop:
    return Shop(tiny_snapshot, tmp_path)


@pytest.fixture
def files_of() -> Callable[[Path], dict[str, bytes]]:
    """Everything below a folder that is no temporary or lock file."""

    def read(folder: Path) -> dict[str, bytes]:
        found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {str(p.relative_to(folder)): p.read_bytes() for p in found}

    return read
