"""Fixtures of the feature tests."""

import pytest
from support.redis_server import MISSING, redis_binary, redis_server


@pytest.fixture
def production(tmp_path, monkeypatch):
    """The environment of the target `production`, on an empty Redis and a SQLite registry; Redis' address."""
    if redis_binary() is None:
        pytest.skip(MISSING)
    with redis_server(tmp_path) as address:
        monkeypatch.setenv("FEATURE_STORE", "production")
        monkeypatch.setenv("FEATURE_STORE_REDIS", f"{address},socket_timeout=2")
        monkeypatch.setenv("FEATURE_STORE_REGISTRY", f"sqlite:///{tmp_path}/registry.db?timeout=60")
        yield address
