"""Fixtures of all tests: one thread for torch and its kin, and a tiny snapshot made once a session."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import prometheus_client  # noqa: F401  before Feast's server, which would make all registries share one file of values
import pytest
from support.snapshots import make_snapshot

# PySpark, which Great Expectations imports, ends a process whose main module has no file, as a worker of pytest-xdist.
sys.modules["__main__"].__dict__.setdefault("__file__", __file__)
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported; two threads on a busy machine burn more


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much a fuzzer sends; `make fuzz` sends more."""
    parser.addoption("--bodies", type=int, default=300, help="bodies that a fuzzer sends to the server")


@pytest.fixture(scope="session")
def tiny_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny snapshot artifact; tests must not write into it."""
    path = tmp_path_factory.mktemp("tiny") / "snapshot"
    make_snapshot(path)
    return path


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import Feast before any test runs: its import parses its own source, which Python 3.11 refuses at times
    ("AST constructor recursion depth mismatch", fixed in later versions) once other tests have used `ast` in threads.
    """
    if any("features" in item.nodeid or "pipelines" in item.nodeid for item in session.items):
        with contextlib.suppress(ImportError):
            import feast  # noqa: F401
