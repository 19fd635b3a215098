"""A real, untrained bundle of the tiny shop, a second one, and a server in a thread."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundles import Shop
from support.models import make_models
from support.picture_hosts import PictureHost
from support.servers import RunningServer

from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.data.snapshot import Snapshot
from onevision.evaluation.config import EvaluationConfig
from onevision.evaluation.stage import run as evaluate
from onevision.generator.choice import ChoiceModel
from onevision.generator.modelling import Generator
from onevision.semantic_ids.catalogue import Catalogue
from onevision.serving.search import Searcher


@pytest.fixture(scope="session")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def bundle(tiny_snapshot: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = Shop(tiny_snapshot, tmp_path_factory.mktemp("published"))
    names = {name: path for name, path in models.items() if name not in ("snapshot", "pairs")}
    shop.publish(shop.measured(names))
    return shop.root / "bundle"


@pytest.fixture(scope="session")
def evaluation(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of the bundle's artifacts, with the cascade that it trained."""
    small = EvaluationConfig(
        max_queries=10, beam_width=8, bootstrap_samples=100, recall_candidates=12, ranker_trees=5, latency_queries=5
    )
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    evaluate(**models, out=out, config=small, seed=7)
    return out


@pytest.fixture(scope="session")
def searcher(bundle: Path) -> Searcher:
    return Searcher.open(bundle)


@pytest.fixture(scope="session")
def photo(tiny_snapshot: Path) -> bytes:
    shop = Snapshot.open(tiny_snapshot)
    return shop.images.read(shop.images.ids[-1])


@pytest.fixture(scope="session")
def other_bundle(tiny_snapshot: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shop with another generator, so that it scores everything differently."""
    root = tmp_path_factory.mktemp("other")
    model = Generator.from_pretrained(models["generator_sft"])
    torch.manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.2 * torch.randn_like(weights)
    path = start_artifact(root / "generator")
    model.save_pretrained(path)
    choice = ChoiceModel.from_pretrained(models["generator_sft"], Catalogue.open(models["semantic_ids"]))
    torch.nn.init.normal_(choice.weights)
    choice.save_pretrained(path)
    finish_artifact(path, "generator", parents={"semantic_ids": open_artifact(models["semantic_ids"])})
    pruning = shutil.copytree(models["pruning"], root / "pruning")
    (pruning / "manifest.json").unlink()
    finish_artifact(pruning, "pruning", parents={"generator": open_artifact(path)})
    names = {name: place for name, place in models.items() if name not in ("snapshot", "pairs")}
    names |= {"generator_sft": path, "generator_aligned": path, "pruning": pruning}
    shop = Shop(tiny_snapshot, root)
    shop.publish(shop.measured(names))
    return shop.root / "bundle"


@pytest.fixture(scope="session")
def other_encoder_bundle(
    tiny_snapshot: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same shop as if its encoder had been trained anew."""
    root = tmp_path_factory.mktemp("other encoder")
    encoder = shutil.copytree(models["encoder"], root / "encoder")
    finish_artifact(encoder, "encoder", parents={"snapshot": open_artifact(tiny_snapshot)})
    shop = Shop(tiny_snapshot, root)
    names = {name: place for name, place in models.items() if name not in ("snapshot", "pairs")}
    shop.publish(shop.measured(names | {"encoder": encoder}))
    return shop.root / "bundle"


@pytest.fixture
def serve() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers that end with the test."""
    running: list[RunningServer] = []

    def start(**arguments: Any) -> RunningServer:
        running.append(RunningServer(**arguments))
        return running[-1].wait_until_ready() if arguments.get("ready", True) else running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def picture_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureHost]:
    with PictureHost(tmp_path_factory.mktemp("host")) as running:
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def host(picture_host: PictureHost) -> PictureHost:
    """A TLS server that has not been asked yet."""
    picture_host.forget()
    return picture_host
