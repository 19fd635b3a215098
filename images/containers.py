"""Containers of the built images, as bare as a cluster runs them: no network, no capability, nothing to write but /tmp.

KFP's runner for containers removes each as soon as it ends, and then takes "not found" for success. `run_to_its_end`
stands in for that part of it: it keeps the container until its exit code is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kfp.local import docker_task_handler

USER = 1000
BARE: dict[str, Any] = {
    "user": str(USER),
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "environment": {"HOME": "/tmp", "OMP_NUM_THREADS": "1"},
}


def run_to_its_end(client: Any, image: str, command: Sequence[str], volumes: dict[str, Any], **options: Any) -> int:
    """Run a command in a container, print what it says, and return its exit code.

    Args:
        client: a `docker.DockerClient`.
        volumes, options: as for `docker.DockerClient.containers.run`.
    """
    container = client.containers.run(image=image, command=list(command), volumes=volumes, detach=True, **options)
    try:
        for chunk in container.logs(stream=True):
            print(chunk.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


@contextmanager
def exit_codes_count() -> Iterator[None]:
    """Within the block a task of KFP's container runner fails when its container does."""
    before = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = run_to_its_end
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = before
