"""Prerequisites: what is there is said, and all that is missing is named at once, in seconds."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from onevision import task
from onevision.errors import OneVisionError
from onevision.prerequisites import check_prerequisites


@pytest.fixture
def port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_what_is_there_is_said(tiny_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "x1y2z3")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        found = check_prerequisites(
            snapshot=str(tiny_snapshot), store=str(tmp_path / "store"), variables=["SOME_PASSWORD"], services=[place]
        )
    assert [line.rpartition(": ")[0] for line in found] == [
        str(tiny_snapshot),
        str(tmp_path / "store"),
        "SOME_PASSWORD",
        place,
    ]
    assert "x1y2z3" not in "".join(found)
    assert not list((tmp_path / "store").iterdir())


def test_everything_that_is_missing_is_named_at_once(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_PASSWORD", raising=False)
    (tmp_path / "file").write_text("no folder")
    began = time.monotonic()
    with pytest.raises(OneVisionError) as error:
        check_prerequisites(
            snapshot=str(tmp_path / "nowhere"),
            store=str(tmp_path / "file"),
            variables=["SOME_PASSWORD"],
            services=[f"127.0.0.1:{port}", "redis"],
            gpu=True,
        )
    assert time.monotonic() - began < 60
    lines = str(error.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        str(tmp_path / "nowhere"),
        str(tmp_path / "file"),
        "SOME_PASSWORD",
        f"127.0.0.1:{port}",
        "redis",
        "no GPU",
    ]


def test_the_task_ends_with_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        task.require(snapshot=str(tmp_path / "nowhere"))
    assert f"prerequisites failed: {tmp_path / 'nowhere'}: no manifest.json there" in capsys.readouterr().out
