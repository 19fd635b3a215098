"""Tasks in containers: a container's exit code is its task's, and no container is left behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kfp")
pytest.importorskip("docker")
from kfp.local import config, docker_task_handler, status

from images.containers import BARE, exit_codes_count, run_to_its_end


class Engine:
    """Stands for a container engine whose containers end with one exit code."""

    def __init__(self, code: int) -> None:
        self.code, self.asked, self.removed = code, {}, 0
        self.containers = SimpleNamespace(run=self.run)

    def run(self, **asked: Any) -> Any:
        self.asked = asked
        return self

    def logs(self, stream: bool) -> Any:
        return iter([b"line\n", b"\xff\n"])

    def wait(self) -> dict[str, int]:
        if self.removed or self.asked.get("auto_remove"):
            raise AssertionError("the container was gone before its exit code was read")
        return {"StatusCode": self.code}

    def remove(self, force: bool) -> None:
        self.removed += 1

    def info(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("code", [0, 1, 137])
def test_the_exit_code_is_read_before_the_container_goes(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(code)
    assert run_to_its_end(engine, "image", ("a", "b"), {}, **BARE) == code
    assert engine.removed == 1
    assert (engine.asked["command"], engine.asked["image"]) == (["a", "b"], "image")
    assert capsys.readouterr().out.startswith("line\n")


def test_a_container_that_cannot_be_read_is_removed_too() -> None:
    engine = Engine(0)
    engine.logs = lambda stream: iter([1 / 0 for _ in range(1)])  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        run_to_its_end(engine, "image", ["a"], {})
    assert engine.removed == 1


@pytest.mark.parametrize(("code", "expected"), [(0, status.Status.SUCCESS), (1, status.Status.FAILURE)])
def test_a_task_of_kfp_fails_with_its_container(
    monkeypatch: pytest.MonkeyPatch, code: int, expected: status.Status
) -> None:
    engine = Engine(code)
    monkeypatch.setattr("docker.from_env", lambda: engine)
    handler = docker_task_handler.DockerTaskHandler("image", ["false"], "/tmp/root", config.DockerRunner(**BARE))
    theirs = docker_task_handler.run_docker_container
    with exit_codes_count():
        assert handler.run() is expected
    assert docker_task_handler.run_docker_container is theirs
    assert engine.asked["cap_drop"] == ["ALL"]
    assert engine.asked["volumes"]["/tmp/root"] == {"bind": "/tmp/root", "mode": "rw"}


def test_containers_have_nothing_that_they_do_not_need() -> None:
    assert BARE["read_only"]
    assert BARE["user"] != "0"
    assert BARE["security_opt"] == ["no-new-privileges"]
