"""The cascade answers beside the generator as it was measured, under the same rules, and for its own catalogue only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.servers import RunningServer, wait_until
from support.users import KnownUsers

from onevision.artifacts import open_artifact
from onevision.data.snapshot import Snapshot
from onevision.data.store import read_pointer, swap_pointer
from onevision.decoding.filters import ItemFilter
from onevision.encoder.model import Encoder
from onevision.errors import ArtifactError
from onevision.evaluation.cascade import FOLDER, Cascade
from onevision.evaluation.items import Items
from onevision.evaluation.searches import Searches
from onevision.features.definitions import UserSequences
from onevision.features.queries import QuerySet
from onevision.publishing.promotion import upload_bundle
from onevision.serving.answers import Hit
from onevision.serving.config import ServingConfig
from onevision.serving.search import CASCADE, Searcher
from onevision.serving.server import Server, Sources

Serve = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def server(bundle: Path, evaluation: Path) -> Iterator[RunningServer]:
    settings = {"max_wait_ms": 200}
    running = RunningServer(bundle=str(bundle), users=KnownUsers(), cascade=evaluation, settings=settings)
    yield running.wait_until_ready()
    running.stop()


@pytest.fixture(scope="module")
def wanted(models: dict[str, Path], evaluation: Path) -> Callable[..., list[tuple[str, float]]]:
    """Items and scores of the cascade that the evaluation kept, asked without any server."""
    shop = Snapshot.open(models["snapshot"])
    items = Items.load(models["semantic_ids"], shop)
    cascade = Cascade.load(evaluation / FOLDER, items)
    encoder = Encoder.from_pretrained(models["encoder"])

    def rank(pixels: np.ndarray, user: str, k: int) -> list[tuple[str, float]]:
        seen = encoder.embed(pixels[None])
        sequences = KnownUsers().sequences(user)
        query = QuerySet.asked_now(seen.embedding, seen.category, seen.tokens, [sequences])
        rows, scores = cascade.rank(Searches.of(query, items), k)
        return [
            (items.item_id[row], score)
            for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)
            if math.isfinite(score)
        ]

    return rank


def assert_hits(hits: list[dict[str, Any]], wanted: list[tuple[str, float]]) -> None:
    assert [hit["item_id"] for hit in hits] == [item for item, _ in wanted]
    assert [hit["score"] for hit in hits] == pytest.approx([score for _, score in wanted], abs=1e-4)


@pytest.mark.parametrize("user", ["", "ann"])
def test_a_search_is_answered_as_the_evaluation_measured_it(
    server: RunningServer, searcher: Searcher, photo: bytes, wanted: Callable[..., Any], user: str
) -> None:
    found = server.search(photo, k=7, user=user, system="cascade").json()
    assert_hits(found["hits"], wanted(searcher.decode(photo), user, 7))
    assert set(found["hits"][0]) == set(Hit.__dataclass_fields__)
    assert len({hit["score"] for hit in found["hits"]}) > 2, "a ranker that says something"
    assert {hit["click_probability"] for hit in found["hits"]} == {None}
    assert found["notes"] == ["answered by the cascade"]
    generated = server.search(photo, k=7, user=user)
    assert generated.json() == server.search(photo, k=7, user=user, system="generator").json()
    assert found["sid"] == generated.json()["sid"]


def test_no_more_is_answered_than_the_ranker_ranks(server: RunningServer, photo: bytes) -> None:
    hits = server.search(photo, k=30, system="cascade").json()["hits"]
    assert len(hits) == 12, "recall_candidates of the evaluation"


def test_a_filter_is_held_before_the_cut(server: RunningServer, tiny_snapshot: Path, photo: bytes) -> None:
    answer = server.search(photo, k=3, category="category 1", max_price=1e6, in_stock="true", system="cascade").json()
    only = ItemFilter("category 1", max_price=1e6, in_stock=True)
    shop = Snapshot.open(tiny_snapshot)
    names = dict(zip(*(shop.table("categories")[c].to_pylist() for c in ("category_id", "name")), strict=True))
    table = shop.table("items")
    table = table.append_column("category", [[names[c] for c in table["category_id"].to_pylist()]])
    passing = table["item_id"].filter(only.allowed(table)).to_pylist()
    assert len(answer["hits"]) == min(3, len(passing)) > 0
    assert {hit["item_id"] for hit in answer["hits"]} <= set(passing)
    assert server.search(photo, category="hats", system="cascade").status_code == 400


def test_both_systems_in_one_batch_answer_as_alone(server: RunningServer, photo: bytes) -> None:
    asked = [{"k": 1 + n % 4, "system": ("generator", "cascade")[n % 2]} for n in range(16)]
    alone = [server.search(photo, **fields).json()["hits"] for fields in asked]
    before = server.metric("onevision_batch_photos_count")
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda fields: server.search(photo, **fields), asked))
    for hits, answer in zip(alone, answers, strict=True):
        assert_hits(answer.json()["hits"], [(hit["item_id"], hit["score"]) for hit in hits])
    assert server.metric("onevision_batch_photos_count") - before < len(asked)


def test_a_system_that_is_not_there_is_named(server: RunningServer, serve: Serve, bundle: Path, photo: bytes) -> None:
    unknown = server.search(photo, system="oracle")
    assert (unknown.status_code, "'generator' or 'cascade'" in unknown.text) == (422, True)
    assert server.client.get("/page/about").json()["cascade"] == "on"
    without = serve(bundle=str(bundle))
    refused = without.search(photo, system="cascade")
    assert (refused.status_code, "--cascade" in refused.text) == (400, True)
    assert without.client.get("/page/about").json()["cascade"] == "none"


def test_the_cascade_of_another_encoder_ends_the_server(
    serve: Serve, other_encoder_bundle: Path, evaluation: Path
) -> None:
    server = serve(bundle=str(other_encoder_bundle), cascade=evaluation, ready=False)
    server.thread.join(90)
    assert isinstance(server.server.error, ArtifactError)
    assert "trained with encoder" in str(server.server.error)


def test_beside_a_champion_of_another_encoder_the_generator_answers_alone(
    serve: Serve,
    tmp_path: Path,
    bundle: Path,
    other_encoder_bundle: Path,
    evaluation: Path,
    photo: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = str(tmp_path / "store")

    def promote(path: Path) -> str:
        identity = open_artifact(path, verify=False).identity
        upload_bundle(path, store, identity)
        swap_pointer(store, {"bundle": identity}, read_pointer(store)[1])
        return identity

    promote(bundle)
    server = serve(store=store, cascade=evaluation)
    assert server.search(photo, system="cascade").status_code == 200
    second = promote(other_encoder_bundle)
    wait_until(lambda: server.client.get("/page/about").json()["bundle"] == second)
    assert server.client.get("/page/about").json()["cascade"] == "off"
    assert "the generator answers alone" in caplog.text
    assert server.search(photo, system="cascade").status_code == 400
    assert server.search(photo).status_code == 200
    promote(bundle)
    wait_until(lambda: server.search(photo, system="cascade").status_code == 200)


def test_an_evaluation_that_is_none_is_refused_at_once(bundle: Path, evaluation: Path, tmp_path: Path) -> None:
    for path, message in ((tmp_path, "manifest"), (bundle, "'evaluation' artifact is wanted")):
        with pytest.raises(ArtifactError, match=message):
            Server(Sources(bundle=str(bundle), cascade=path), ServingConfig(), host="127.0.0.1", port=0)


def test_the_library_is_asked_alike(bundle: Path, evaluation: Path, photo: bytes, wanted: Callable[..., Any]) -> None:
    searcher = Searcher.open(bundle)
    searcher.use_cascade(open_artifact(evaluation))
    pixels = searcher.decode(photo)
    (answer,) = searcher.rank(pixels[None], [UserSequences()], 5, system=CASCADE)
    assert [hit.item_id for hit in answer.hits] == [item for item, _ in wanted(pixels, "", 5)]
