"""Submitting: the right arguments reach KFP, wrong ones reach nobody, and a failed run fails the job."""

from __future__ import annotations

import http.server
import threading
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kfp")
from onevision import cli
from onevision.errors import OneVisionError
from pipelines.submit import submit

DAY = date(2026, 1, 31)
HOST = "http://kfp"
GIVEN = ["snapshot=x", "run_date=y"]
SETTINGS = {"day": DAY, "wait_hours": 0.5, "service_account": "somebody"}


class Client:
    """Stands for KFP's API server: keeps what is submitted, and says how it ended."""

    def __init__(self, state: str = "SUCCEEDED") -> None:
        self.state, self.runs, self.waited = state, [], []

    def create_experiment(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=f"id of {name}")

    def list_runs(self, experiment_id: str, page_size: int, sort_by: str) -> Any:
        assert (experiment_id, sort_by) == ("id of onevision", "created_at desc")
        found = [
            SimpleNamespace(run_id=f"r{number}", display_name=run["run_name"], state=self.state)
            for number, run in enumerate(self.runs)
        ]
        return SimpleNamespace(runs=found[-page_size:] or None)  # as the API server says that there is none

    def create_run_from_pipeline_package(self, file: str, **run: Any) -> Any:
        with open(file) as stream:
            self.runs.append(run | {"compiled": stream.read()})
        return SimpleNamespace(run_id=f"r{len(self.runs) - 1}")

    def wait_for_run_completion(self, run_id: str, timeout: int, sleep_duration: int) -> Any:
        self.waited.append((run_id, timeout))
        return SimpleNamespace(state=self.state)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    server = Client()
    monkeypatch.setattr("kfp.Client", lambda host: server)
    return server


def test_the_pipeline_is_submitted_with_its_date_and_waited_for(client: Client) -> None:
    words = ["snapshot=gs://shop/{date}", "run_date={date}", 'shards=["1/2", "2/2"]']
    assert submit(HOST, "sharded_training", words, **SETTINGS, image="registry/x@sha256:0") == "SUCCEEDED"
    (run,) = client.runs
    assert run["arguments"] == {"snapshot": "gs://shop/2026-01-31", "run_date": "2026-01-31", "shards": ["1/2", "2/2"]}
    assert run["run_name"].startswith("sharded_training-2026-01-31-")
    assert run["service_account"] == "somebody"
    assert "name: onevision-sharded-training" in run["compiled"]
    assert "image: registry/x@sha256:0" in run["compiled"]
    assert client.waited == [("r0", 1800)]


@pytest.mark.parametrize(("state", "runs"), [("RUNNING", 1), ("SUCCEEDED", 1), ("FAILED", 2), ("CANCELED", 2)])
def test_a_date_is_submitted_again_only_if_it_failed(client: Client, state: str, runs: int) -> None:
    client.state = state
    for _ in range(2):
        submit(HOST, "full_training", ["snapshot=x", "run_date={date}"], **SETTINGS)
    assert len(client.runs) == runs
    assert client.waited[-1][0] == f"r{runs - 1}"
    submit(HOST, "full_training", ["snapshot=y", "run_date={date}"], **SETTINGS)
    submit(HOST, "full_training", ["snapshot=x", "run_date={date}"], **SETTINGS | {"day": date(2026, 2, 1)})
    assert len({run["run_name"] for run in client.runs}) == 3


def test_a_run_that_takes_too_long_is_named(client: Client) -> None:
    client.wait_for_run_completion = lambda *_, **__: (_ for _ in ()).throw(TimeoutError)  # type: ignore[method-assign]
    with pytest.raises(OneVisionError, match=r"run r0 has not ended after 0\.5 hours"):
        submit(HOST, "full_training", ["snapshot=x", "run_date=y"], **SETTINGS)


@pytest.mark.parametrize(
    ("pipeline", "words", "message"),
    [
        ("hourly", [], "no pipeline 'hourly'; there are full_training"),
        ("full_training", ["snapshot=x"], "also needs run_date"),
        ("full_training", ["snapshots=x"], "the pipeline takes .*snapshot, "),
        ("full_training", ["snapshot"], "write name=value"),
        ("full_training", [*GIVEN, "overrides=seed=3"], r"list .*, such as 'overrides=\[\"encoder.steps=3000\"\]'"),
        ("full_training", [*GIVEN, "overrides=[3]"], "a JSON list of texts is wanted"),
        ("sharded_training", [*GIVEN, "shards=8"], r"such as 'shards=\[\"1/2\", \"2/2\"\]'"),
        ("full_training", [*GIVEN, "recipe=quickstrat"], "recipe=quickstrat: .*bench, .*quickstart"),
        ("full_training", [*GIVEN, "recipe=my.yaml"], "recipe=my.yaml: tasks know the packaged recipes alone"),
        ("full_training", [*GIVEN, 'overrides=["encoder.step=3"]'], "steps"),
    ],
)
def test_a_mistake_is_named_before_anybody_is_asked(
    monkeypatch: pytest.MonkeyPatch, pipeline: str, words: list[str], message: str
) -> None:
    monkeypatch.setattr("kfp.Client", lambda host: pytest.fail("KFP was asked"))
    with pytest.raises(OneVisionError, match=message):
        submit(HOST, pipeline, words, **SETTINGS)


@pytest.mark.parametrize("listens", [False, True], ids=["nobody there", "somebody else there"])
def test_a_host_that_is_no_api_server_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], listens: bool
) -> None:
    monkeypatch.setattr("kfp.client.client.time.sleep", lambda seconds: None)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        host = f"http://127.0.0.1:{other.server_port}"
        if listens:
            threading.Thread(target=other.serve_forever, daemon=True).start()
        else:
            other.socket.close()
        monkeypatch.setattr("sys.argv", ["onevision", "submit", "full_training", "--host", host, *GIVEN])
        with pytest.raises(SystemExit, match="1"):
            cli.main()
        if listens:
            other.shutdown()
    said = capfd.readouterr().err
    assert f"{host}: KFP's API server does not answer there" in said
    assert "port-forward service/ml-pipeline 8888:8888" in said
    assert "Traceback" not in said


def test_the_documented_overrides_reach_the_run(client: Client) -> None:
    submit(HOST, "full_training", [*GIVEN, "recipe=smoke", 'overrides=["encoder.steps=3000"]'], **SETTINGS)
    assert client.runs[0]["arguments"]["overrides"] == ["encoder.steps=3000"]


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_the_exit_code_of_the_command_is_the_runs(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    client.state = state
    words = ["submit", "full_training", "--host", "http://kfp", "--date", "2026-01-31", "snapshot=x", "run_date={date}"]
    monkeypatch.setattr("sys.argv", ["onevision", *words])
    if code:
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 1
        assert f"of 2026-01-31 ended as {state}" in capsys.readouterr().err
    else:
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    assert client.runs[0]["arguments"]["run_date"] == "2026-01-31"
