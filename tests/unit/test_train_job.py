"""A stage as a job on several machines: the job that is made, waiting for it, and what a machine does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manifests.schema import VERSIONS, problems
from onevision import train_node
from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.data.store import upload
from onevision.errors import OneVisionError
from onevision.train_job import Machines, run_on_machines, train_job

MACHINES = Machines(4, 2, "registry.example/onevision@sha256:0", {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2"})
INPUTS = {"snapshot": "gs://shop/a", "pairs": "gs://shop/b"}


class Api:
    """Stands for the cluster: keeps the jobs, and runs each through its conditions."""

    def __init__(self, *conditions: dict[str, str]) -> None:
        self.conditions = [None, *conditions]
        self.jobs: dict[str, Any] = {}
        self.deleted: list[str] = []

    def create_namespaced_custom_object(
        self, *, group: str, version: str, namespace: str, plural: str, body: Any
    ) -> None:
        assert (f"{group}/{version}", plural, namespace) == (body["apiVersion"], "trainjobs", "kubeflow")
        self.jobs[body["metadata"]["name"]] = body

    def get_namespaced_custom_object(self, *, name: str, **_: str) -> Any:
        condition = self.conditions.pop(0)
        return self.jobs[name] | ({"status": {"conditions": [condition]}} if condition else {})

    def delete_namespaced_custom_object(self, *, name: str, **_: str) -> None:
        self.deleted.append(name)


def run(api: Api, out: Path, scratch: str = "gs://shop/scratch") -> None:
    run_on_machines(
        "align",
        INPUTS,
        out,
        scratch,
        MACHINES,
        recipe="smoke",
        api=api,
        namespace="kubeflow",
        poll_s=0,
        overrides=["a=b"],
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_fits_its_schema_and_says_what_a_machine_does(version: str) -> None:
    job = train_job("onevision-align-1", "align", INPUTS, "gs://shop/c", MACHINES, recipe="smoke", overrides=["seed=3"])
    assert list(problems(job, version)) == []
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (4, 2, MACHINES.image)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "2"
    assert trainer["command"] == ["python", "-m", "onevision.train_node"]
    asked = train_node.parse(trainer["args"])
    assert (asked.stage, asked.out, asked.recipe, asked.overrides) == ("align", "gs://shop/c", "smoke", ["seed=3"])
    assert asked.input == ["snapshot=gs://shop/a", "pairs=gs://shop/b"]
    job["spec"]["trainer"]["nodes"] = 4
    assert list(problems(job, version))


@pytest.mark.parametrize(
    ("stage", "inputs", "message"),
    [
        ("pair", INPUTS, "stage pair runs in one process"),
        ("align", INPUTS | {"pairs": "/data/pairs"}, "/data/pairs: machines of a job share no disk"),
        ("aling", INPUTS, "did you mean 'align'"),
    ],
)
def test_a_job_that_would_not_help_is_refused(stage: str, inputs: dict[str, str], message: str) -> None:
    with pytest.raises(OneVisionError, match=message):
        train_job("x", stage, inputs, "gs://shop/c", MACHINES, recipe="smoke")


def test_a_job_is_waited_for_and_its_artifact_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr("onevision.train_job.download", lambda place, out: fetched.append((place, out)))
    api = Api({"type": "Suspended", "status": "False"}, {"type": "Complete", "status": "True"})
    run(api, tmp_path)
    ((name, job),) = api.jobs.items()
    assert fetched == [(f"gs://shop/scratch/{name}", tmp_path)]
    assert f"--out=gs://shop/scratch/{name}" in job["spec"]["trainer"]["args"]
    assert api.deleted == [name]


def test_a_job_that_fails_is_named_with_its_reason_and_goes(tmp_path: Path) -> None:
    api = Api({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "node 2"})
    with pytest.raises(OneVisionError, match="failed: BackoffLimitExceeded: node 2"):
        run(api, tmp_path)
    assert api.deleted == list(api.jobs)


def test_a_waiter_that_is_killed_takes_its_job_along(tmp_path: Path) -> None:
    api = Api()
    with pytest.raises(IndexError):  # no more conditions: stands for whatever ends the wait
        run(api, tmp_path)
    assert api.deleted == list(api.jobs)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = start_artifact(tmp_path / "made")
    (folder / "file.txt").write_text("x")
    finish_artifact(folder, "pairs")
    upload(folder, tmp_path / "store" / "pairs")
    return tmp_path / "store" / "pairs"


@pytest.mark.parametrize(("rank", "sent"), [("0", True), ("1", False)])
def test_a_machine_fetches_the_inputs_and_the_first_one_sends_the_artifact(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, sent: bool
) -> None:
    commands = []

    def torchrun(command: list[str]) -> Any:
        commands.append(command)
        place = Path(command[command.index("--pairs") + 1])
        assert (place / "file.txt").read_text() == "x"
        made = start_artifact(Path(command[command.index("--out") + 1]))
        finish_artifact(made, "encoder")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr("subprocess.run", torchrun)
    monkeypatch.setenv("PET_NODE_RANK", rank)
    train_node.run("align", [f"pairs={artifact}"], ["embed=train"], str(tmp_path / "out"), "smoke", ["seed=3"])
    ((_, *words),) = commands
    assert words[:5] == ["-m", "torch.distributed.run", "-m", "onevision", "align"]
    assert "--embed=train" in words
    assert words[-3:] == ["--recipe", "smoke", "seed=3"]
    assert (tmp_path / "out").exists() is sent
    if sent:
        assert open_artifact(tmp_path / "out").kind == "encoder"


def test_a_machine_whose_stage_fails_sends_nothing(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["align", f"--input=pairs={artifact}", f"--out={tmp_path / 'x'}", "--recipe=nothing"]
    monkeypatch.setattr("sys.argv", ["train_node", *words])
    with pytest.raises(SystemExit, match="1"):
        train_node.main()
    assert "stage align ended with exit code 1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
