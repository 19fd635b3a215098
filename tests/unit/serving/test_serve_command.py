"""`onevision serve` as a process: it serves, and SIGTERM ends it after what it has in work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from support.servers import RunningServer

from onevision import cli


@pytest.mark.slow
def test_a_process_that_is_told_to_stop_answers_what_it_has(bundle: Path, photo: bytes) -> None:
    settings = ["max_batch=64", "max_wait_ms=1000"]  # eight photos wait a second for company
    command = [sys.executable, "-m", "onevision", "serve", "--bundle", str(bundle), "--port", "0", *settings]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert run.stderr is not None
        url = next(line.split()[-5] for line in run.stderr if "running on" in line)
        client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        RunningServer._await(lambda: client.get("/v2/health/ready").status_code == 200)
        with ThreadPoolExecutor(8) as pool:
            taken = [pool.submit(client.post, "/search", files={"image": photo}) for _ in range(8)]
            RunningServer._await(lambda: "onevision_pending_photos 8.0" in client.get("/metrics").text)
            run.send_signal(signal.SIGTERM)
            assert [answer.result().status_code for answer in taken] == [200] * 8
        assert run.wait(30) in (0, -signal.SIGTERM)


def test_what_cannot_be_served_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for words, message in (
        (["--bundle", str(tmp_path / "none")], "no such bundle"),
        ([], "give either a bundle"),
        (["--bundle", str(tmp_path), "max_bach=2"], "did you mean 'max_batch'"),
        (["--bundle", str(tmp_path), "--snapshot", str(tmp_path / "none")], "no such artifact"),
    ):
        monkeypatch.setattr(sys, "argv", ["onevision", "serve", *words])
        with pytest.raises(SystemExit, match="1"):
            cli.main()
        assert message in capsys.readouterr().err
