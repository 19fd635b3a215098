"""Where a pipeline runs: this machine, a cluster to try it on, and the one that shoppers depend on.

A pipeline's graph is the same everywhere. A target adds which image its tasks run in, which nodes have the GPUs, and
which secrets they see. Image and place of the object store are named when a pipeline is compiled or submitted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from components import BASE_IMAGE
from onevision.data.store import is_remote
from onevision.errors import OneVisionError

DIGEST = "@sha256:"


@dataclass(frozen=True)
class Accelerator:
    """GPUs of one type.

    Attributes:
        resource: its name in Kubernetes; nodes that keep other pods away are tainted with it.
        node_label: label and value of the nodes that have this type.
        count: GPUs of a task.
    """

    resource: str
    node_label: tuple[str, str]
    count: int = 1


@dataclass(frozen=True)
class Target:
    """A place where pipelines run.

    Attributes:
        accelerator: what training takes; without one it uses processors.
        by_digest: whether the image must be named by digest, because KFP caches by the name of the image.
        secrets: name of a Kubernetes secret -> its keys -> environment variables of the tasks that may see them.
        services: `host:port` of what the tasks need besides the object store, such as a feature store.
    """

    accelerator: Accelerator | None = None
    by_digest: bool = False
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    services: tuple[str, ...] = ()

    @property
    def variables(self) -> list[str]:
        """The environment variables that the secrets set."""
        return sorted(variable for keys in self.secrets.values() for variable in keys.values())


FEATURE_STORE = {
    "onevision-feature-store": {
        name: name for name in ("FEATURE_STORE", "FEATURE_STORE_REDIS", "FEATURE_STORE_REGISTRY")
    }
}
"""The store that servers share, with addresses that hold passwords: feature_repo/feature_store.production.yaml."""
REDIS = "onevision-redis.onevision:6379"
TARGETS = {
    "local": Target(),
    "dev": Target(secrets=FEATURE_STORE, services=(REDIS,)),
    "prod": Target(
        accelerator=Accelerator("nvidia.com/gpu", ("cloud.google.com/gke-accelerator", "nvidia-l4")),
        by_digest=True,
        secrets=FEATURE_STORE,
        services=(REDIS,),
    ),
}


@dataclass(frozen=True)
class Placement:
    """A target, and what is named beside it.

    Attributes:
        image: of every task.
        nodes: machines that train together; with more than one a `TrainJob` leaves its artifact below `scratch`.
    """

    target: Target
    image: str
    nodes: int = 1
    scratch: str = ""


_CURRENT: ContextVar[Placement | None] = ContextVar("placement", default=None)


def current() -> Placement:
    """Where the pipeline that is being built will run; by default on this machine."""
    return _CURRENT.get() or Placement(TARGETS["local"], BASE_IMAGE)


@contextmanager
def placed(name: str, image: str, nodes: int = 1, scratch: str = "") -> Iterator[None]:
    """Build pipelines for the target of that name; see `Placement`.

    Raises:
        OneVisionError: no such target, an image by tag where a digest is wanted, or machines without a bucket.
    """
    target = TARGETS.get(name)
    if target is None:
        raise OneVisionError(f"no target {name!r}; there are {', '.join(TARGETS)}")
    if target.by_digest and DIGEST not in image:
        raise OneVisionError(f"{image}: the target {name} wants an image by digest, registry/name{DIGEST}...")
    if nodes > 1 and not is_remote(scratch):
        raise OneVisionError(f"{nodes} machines share no disk: name a bucket for what they make, gs://bucket/prefix")
    token = _CURRENT.set(Placement(target, image, nodes, scratch))
    try:
        yield
    finally:
        _CURRENT.reset(token)
