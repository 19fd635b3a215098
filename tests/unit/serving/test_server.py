"""The server answers as `Searcher` does, alone and under load, and is honest about what it cannot do."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from support.servers import RunningServer, wait_until
from support.users import KnownUsers

from onevision.data.snapshot import Snapshot
from onevision.decoding.filters import ItemFilter
from onevision.errors import ArtifactError, OneVisionError, RecipeError
from onevision.recipe import section_of
from onevision.serving.answers import Answer, Hit
from onevision.serving.config import ServingConfig
from onevision.serving.search import Searcher
from onevision.serving.server import Server, Sources

Serve = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def server(bundle: Path, tiny_snapshot: Path) -> Any:
    running = RunningServer(bundle=str(bundle), users=KnownUsers(), snapshot=str(tiny_snapshot)).wait_until_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def photos(tiny_snapshot: Path) -> list[bytes]:
    shop = Snapshot.open(tiny_snapshot)
    return [shop.images.read(image) for image in shop.images.ids[:24]]


def assert_same(found: Sequence[dict[str, Any]], hits: Sequence[Hit]) -> None:
    assert [hit["item_id"] for hit in found] == [hit.item_id for hit in hits]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-3)


def test_a_form_and_json_are_answered_as_the_searcher_does(
    server: RunningServer, searcher: Searcher, photo: bytes
) -> None:
    wanted = searcher.answer(photo, None, 7)
    body = {"image": base64.b64encode(photo).decode(), "k": 7}
    for answer in (server.search(photo, k=7), server.client.post("/search", json=body)):
        assert answer.status_code == 200
        found = answer.json()
        assert found["bundle"] == searcher.bundle.identity
        assert tuple(found["sid"]) == wanted.sid
        assert_same(found["hits"], wanted.hits)
        assert set(found["hits"][0]) == set(Hit.__dataclass_fields__)


def test_a_known_user_is_answered_with_their_history(server: RunningServer, photo: bytes) -> None:
    nobody, ann, bob = (server.search(photo, user=user).json() for user in ("", "ann", "bob"))
    assert [hit["score"] for hit in ann["hits"]] != [hit["score"] for hit in nobody["hits"]]
    assert ann["notes"] == nobody["notes"] == []
    assert bob["hits"] == nobody["hits"]
    assert "do not know" in bob["notes"][0]


def test_filters_are_the_searchers(server: RunningServer, searcher: Searcher, photo: bytes) -> None:
    found = server.search(photo, k=20, category="category 1", in_stock="true").json()["hits"]
    assert_same(found, searcher.search(photo, None, 20, ItemFilter("category 1", in_stock=True)))
    assert {hit["category"] for hit in found} == {"category 1"}
    refused = server.search(photo, category="hats")
    assert refused.status_code == 400
    assert "no item is of category 'hats'" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("threshold", "left"), [(0.3, 3), (0.99, 1), (0.0, 7)])
def test_what_nobody_would_click_is_left_out_where_the_server_is_told_so(
    serve: Serve, bundle: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch, threshold: float, left: int
) -> None:
    rank = Searcher.rank

    def judged(*arguments: Any, **options: Any) -> list[Any]:
        return [
            replace(answer, hits=[replace(hit, click_probability=1 / n) for n, hit in enumerate(answer.hits, 1)])
            for answer in rank(*arguments, **options)
        ]

    monkeypatch.setattr(Searcher, "rank", judged)
    server = serve(bundle=str(bundle), settings={"no_match_below": threshold})
    assert len(server.search(photo, k=7).json()["hits"]) == left


def test_concurrent_requests_are_answered_as_alone_and_in_batches(
    serve: Serve, bundle: Path, searcher: Searcher, photos: list[bytes]
) -> None:
    server = serve(bundle=str(bundle), users=KnownUsers(), settings={"max_wait_ms": 200})
    asked = [(photo, ("ann", None)[n % 2], 1 + n % 5) for n, photo in enumerate(photos)]
    warm = server.metric("onevision_batch_photos_count")
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda a: server.search(a[0], user=a[1] or "", k=a[2]), asked))
    known = Searcher(searcher.bundle, searcher._photos.encoder, searcher._ranker, KnownUsers())  # type: ignore[arg-type]
    for (photo, user, k), answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        assert_same(answer.json()["hits"], known.search(photo, user, k))
    assert server.metric("onevision_batch_photos_count") - warm < len(asked) / 2


def test_too_much_at_once_is_answered_429_and_what_was_taken_is_answered(
    serve: Serve, bundle: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(bundle=str(bundle), settings={"max_batch": 1, "max_pending": 2})
    held, hold = Held(monkeypatch), threading.Event()
    held.until = hold
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(server.search, photo) for _ in range(2)]
        wait_until(lambda: server.metric("onevision_pending_photos") == 2)
        refused = server.search(photo)
        hold.set()
        assert [answer.result().status_code for answer in taken] == [200, 200]
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "overloaded"
    assert server.metric("onevision_shed_requests_total") == 1
    assert server.search(photo).status_code == 200


class Held:
    """Holds up every ranking until `until` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.until = threading.Event()
        self.until.set()
        rank = Searcher.rank

        def waiting(searcher: Searcher, *arguments: Any, **options: Any) -> list[Answer]:
            assert self.until.wait(20)
            return rank(searcher, *arguments, **options)

        monkeypatch.setattr(Searcher, "rank", waiting)


def test_an_answer_that_takes_too_long_is_given_up(
    serve: Serve, bundle: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(bundle=str(bundle), settings={"answer_timeout_s": 0.3})
    held, hold = Held(monkeypatch), threading.Event()
    held.until = hold
    late = server.search(photo)
    hold.set()
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    assert server.search(photo).status_code == 200


def test_a_server_told_to_stop_answers_what_it_has(
    serve: Serve, bundle: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(bundle=str(bundle), settings={"max_batch": 1})
    held, hold = Held(monkeypatch), threading.Event()
    held.until = hold
    with ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(httpx.post, f"{server.url}/search", files={"image": photo}, timeout=60) for _ in range(4)]
        wait_until(lambda: server.metric("onevision_pending_photos") == 4)
        server.server.should_exit = True
        wait_until(lambda: not server.server.servers[0].is_serving())
        hold.set()
        assert [answer.result().status_code for answer in taken] == [200] * 4
    server.thread.join(90)
    assert not server.thread.is_alive()


def test_it_lives_before_it_is_ready_and_is_ready_only_when_warm(
    serve: Serve, bundle: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, hold = Held(monkeypatch), threading.Event()
    held.until = hold  # warming up ranks a grey photo
    server = serve(bundle=str(bundle), ready=False)
    assert server.client.get("/v2/health/live").status_code == 200
    early = server.client.get("/v2/health/ready")
    assert early.status_code == 503
    assert int(early.headers["retry-after"]) >= 1
    assert server.search(photo).json()["error"]["code"] == "not_ready"
    assert server.metric("onevision_ready") == 0
    hold.set()
    server.wait_until_ready()
    assert server.metric("onevision_ready") == 1
    assert server.search(photo).status_code == 200


def test_metrics_count_by_route_and_code(server: RunningServer, photo: bytes) -> None:
    def counted(route: str, code: int) -> float:
        return server.metric(f'onevision_requests_total{{code="{code}",route="{route}"}}')

    before = counted("/search", 200), counted("other", 404)
    server.search(photo)
    server.client.get("/no/such/place")
    assert (counted("/search", 200), counted("other", 404)) == (before[0] + 1, before[1] + 1)
    assert server.metric('onevision_stage_seconds_count{stage="rank"}') > 0


def test_the_openapi_description_names_both_bodies(server: RunningServer) -> None:
    body = server.client.get("/openapi.json").json()["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}


@pytest.mark.parametrize("sources", [{}, {"bundle": "here", "store": "there"}])
def test_exactly_one_of_bundle_and_store_is_wanted(sources: dict[str, str]) -> None:
    with pytest.raises(OneVisionError, match="either a bundle"):
        Server(Sources(**sources), ServingConfig(), host="127.0.0.1", port=0)


def test_a_bundle_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such bundle"):
        Server(Sources(bundle=str(tmp_path / "none")), ServingConfig(), host="127.0.0.1", port=0)


def test_a_bundle_that_cannot_be_loaded_ends_the_server(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    server = serve(bundle=str(tmp_path / "half"), ready=False)
    server.thread.join(90)
    assert not server.thread.is_alive()
    assert isinstance(server.server.error, ArtifactError)
    assert "did not finish" in str(server.server.error)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_bach=3", "did you mean 'max_batch'"),
        ("max_batch=0", "greater than or equal to 1"),
        ("max_pending=2", "less than the 8 photos"),
    ],
)
def test_settings_are_checked(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        section_of(ServingConfig, [override])


def test_the_docs_list_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    for name, field in ServingConfig.model_fields.items():
        assert f"| `{name}` | {field.default} | {field.description} |" in page
