"""Fixtures of all tests: one thread for torch and its kin, and a tiny snapshot made once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.snapshots import make_snapshot

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported; two threads on a busy machine burn more


@pytest.fixture(scope="session")
def tiny_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny snapshot artifact; tests must not write into it."""
    path = tmp_path_factory.mktemp("tiny") / "snapshot"
    make_snapshot(path)
    return path
