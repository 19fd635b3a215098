"""What a pipeline needs before its first hour: checked in seconds, all of it, so that one run names every fault."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Sequence

from onevision.artifacts import MANIFEST
from onevision.data.store import ABSENT, open_store
from onevision.errors import OneVisionError

PATIENCE_S = 5.0


def check_prerequisites(
    *, snapshot: str, store: str = "", variables: Sequence[str] = (), services: Sequence[str] = (), gpu: bool = False
) -> list[str]:
    """Check everything that a pipeline needs, and say what was found.

    Args:
        snapshot: folder or `gs://` prefix that must hold a finished artifact.
        store: folder or `gs://` prefix that must take an object and let it go; empty checks nothing.
        variables: environment variables that must have a value; on a cluster they come from secrets.
        services: `host:port` that must accept a connection, such as the feature store's.
        gpu: whether PyTorch must see a GPU.

    Raises:
        OneVisionError: something is missing; the message names all of it.
    """
    checks: list[Callable[[], str]] = [lambda: _readable(snapshot)]
    checks += [lambda: _writable(store)] if store else []
    checks += [lambda name=name: _is_set(name) for name in variables]  # type: ignore[misc]
    checks += [lambda place=place: _listens(place) for place in services]  # type: ignore[misc]
    checks += [_has_gpu] if gpu else []
    found, missing = [], []
    for check in checks:
        try:
            found.append(check())
        except OneVisionError as error:
            missing.append(str(error))
    if missing:
        raise OneVisionError("\n".join(missing))
    return found


def _readable(snapshot: str) -> str:
    if open_store(snapshot).read(MANIFEST)[0] is None:
        raise OneVisionError(f"{snapshot}: no {MANIFEST} there; no snapshot, or one whose upload did not finish")
    return f"{snapshot}: is there"


def _writable(root: str) -> str:
    store, name = open_store(root), f"prerequisites-{uuid.uuid4().hex}"
    try:
        store.write_if_generation(name, b"{}\n", ABSENT)
        store.delete(name)
    except OSError as error:
        raise OneVisionError(f"{root}: cannot be written ({error})") from None
    return f"{root}: can be written"


def _is_set(name: str) -> str:
    if not os.environ.get(name):
        raise OneVisionError(f"{name}: not set; it comes from a secret that the pipeline's target names")
    return f"{name}: is set"


def _listens(place: str) -> str:
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S):
            return f"{place}: accepts connections"
    except (OSError, ValueError) as error:
        raise OneVisionError(f"{place}: cannot be reached ({error}); write host:port") from None


def _has_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise OneVisionError("no GPU: PyTorch sees none; is the image the CUDA variant, and the node one with a GPU?")
    return f"{torch.cuda.get_device_name()}: PyTorch sees it"
