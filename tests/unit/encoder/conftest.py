from pathlib import Path

import pytest

from onevision.pairing.config import PairingConfig


@pytest.fixture(scope="session")
def tiny_pairs(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of the tiny shop; tests must not write into it."""
    from onevision.pairing.stage import run as pair

    out = tmp_path_factory.mktemp("pairs") / "pairs"
    pair(snapshot=tiny_snapshot, out=out, config=PairingConfig(validation_days=2, test_days=2), seed=1)
    return out
