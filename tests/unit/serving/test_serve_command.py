"""`onevision serve` as a process: it serves, and SIGTERM ends it after what it has in work."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.servers import server_process, wait_until

from onevision import cli


@pytest.mark.slow
def test_a_process_that_is_told_to_stop_answers_what_it_has(bundle: Path, photo: bytes, tmp_path: Path) -> None:
    settings = ["max_batch=9", "max_wait_ms=1000"]  # eight photos wait a second for company
    with (
        server_process(tmp_path / "log", "--bundle", str(bundle), *settings) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        taken = [pool.submit(server.search, photo) for _ in range(8)]
        wait_until(lambda: server.metric("onevision_pending_photos") == 8)
        server.process.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in taken] == [200] * 8
        assert server.process.wait(30) in (0, -signal.SIGTERM)


def test_what_cannot_be_served_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for words, message in (
        (["--bundle", str(tmp_path / "none")], "no such bundle"),
        ([], "give either a bundle"),
        (["--bundle", str(tmp_path), "max_bach=2"], "did you mean 'max_batch'"),
        (["--bundle", str(tmp_path), "--snapshot", str(tmp_path / "none")], "no such artifact"),
        (["--bundle", str(tmp_path), "--cascade", str(tmp_path / "none")], "no such artifact"),
    ):
        monkeypatch.setattr(sys, "argv", ["onevision", "serve", *words])
        with pytest.raises(SystemExit, match="1"):
            cli.main()
        assert message in capsys.readouterr().err
