"""Submitting: the right arguments reach KFP, wrong ones reach nobody, and a failed run fails the job."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kfp")
from onevision.errors import OneVisionError
from pipelines.submit import main, submit

DAY = date(2026, 1, 31)
SETTINGS = {"day": DAY, "wait_hours": 0.5, "service_account": "somebody"}


class Client:
    """Stands for KFP's API server: keeps what is submitted, and says how it ended."""

    def __init__(self, state: str = "SUCCEEDED", host: str = "") -> None:
        self.state, self.runs, self.waited = state, [], 0

    def create_run_from_pipeline_package(self, file: str, **run: Any) -> Any:
        with open(file) as stream:
            self.runs.append(run | {"compiled": stream.read()})
        return SimpleNamespace(run_id="r1")

    def wait_for_run_completion(self, run_id: str, timeout: int, sleep_duration: int) -> Any:
        self.waited = timeout
        return SimpleNamespace(state=self.state)


def test_the_pipeline_is_submitted_with_its_date_and_waited_for() -> None:
    client = Client()
    words = ["snapshot=gs://shop/{date}", "run_date={date}", 'shards=["1/2", "2/2"]']
    assert submit(client, "sharded_training", words, **SETTINGS) == "SUCCEEDED"
    (run,) = client.runs
    assert run["arguments"] == {"snapshot": "gs://shop/2026-01-31", "run_date": "2026-01-31", "shards": ["1/2", "2/2"]}
    assert (run["run_name"], run["service_account"]) == ("sharded_training-2026-01-31", "somebody")
    assert "name: onevision-sharded-training" in run["compiled"]
    assert client.waited == 1800


@pytest.mark.parametrize(
    ("pipeline", "words", "message"),
    [
        ("hourly", [], "no pipeline 'hourly'; there are full_training"),
        ("full_training", ["snapshot=x"], "also needs run_date"),
        ("full_training", ["snapshots=x"], "the pipeline takes .*snapshot, "),
        ("full_training", ["snapshot"], "write name=value"),
        ("full_training", ["snapshot=x", "run_date=y", "overrides=seed=3"], "a list is wanted"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_submitted(pipeline: str, words: list[str], message: str) -> None:
    client = Client()
    with pytest.raises(OneVisionError, match=message):
        submit(client, pipeline, words, **SETTINGS)
    assert client.runs == []


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_the_exit_code_is_the_runs(monkeypatch: pytest.MonkeyPatch, state: str, code: int) -> None:
    monkeypatch.setattr("kfp.Client", lambda host: Client(state))
    assert main(["full_training", "--host", "http://kfp", "snapshot=x", "run_date={date}"]) == code
    assert main(["full_training", "--host", "http://kfp"]) == 1
