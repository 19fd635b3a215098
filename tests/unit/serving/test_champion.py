"""Following the champion: a new one takes over without a dropped or mixed answer, a broken one changes nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.servers import RunningServer, wait_until

from onevision.artifacts import open_artifact
from onevision.data.store import read_pointer, swap_pointer
from onevision.pruning.canary import SEARCHES, Seen
from onevision.publishing.promotion import BUNDLES, upload_bundle
from onevision.serving.answers import Answer
from onevision.serving.champion import load
from onevision.serving.search import Searcher

Serve = Callable[..., RunningServer]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def promote(store: str, bundle: Path) -> str:
    identity = open_artifact(bundle, verify=False).identity
    upload_bundle(bundle, store, identity)
    point(store, identity)
    return identity


def point(store: str, identity: str) -> None:
    swap_pointer(store, {"bundle": identity, "path": f"{BUNDLES}/{identity}"}, read_pointer(store)[1])


def served(server: RunningServer) -> str:
    return server.client.get("/v2/models/onevision").json()["versions"][0]


def test_a_new_champion_takes_over_under_load_without_a_dropped_or_mixed_answer(
    serve: Serve, store: str, bundle: Path, other_bundle: Path, photo: bytes
) -> None:
    first = promote(store, bundle)
    server = serve(store=store)
    wanted = {}
    for path in (bundle, other_bundle):
        searcher = Searcher.open(path)
        wanted[searcher.bundle.identity] = [hit.score for hit in searcher.search(photo, None, 5)]
    assert len({tuple(scores) for scores in wanted.values()}) == 2
    answers, ready, stop = [], [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(server.search(photo, k=5))
            ready.append(server.client.get("/v2/health/ready").status_code)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    second = promote(store, other_bundle)
    wait_until(lambda: served(server) == second)
    before = len(answers)
    wait_until(lambda: len(answers) > before + 6)
    stop.set()
    for asker in askers:
        asker.join()
    assert {answer.status_code for answer in answers} == {200}
    assert set(ready) == {200}
    assert {answer.json()["bundle"] for answer in answers} == {first, second}
    for answer in answers:
        found = answer.json()
        assert [hit["score"] for hit in found["hits"]] == pytest.approx(wanted[found["bundle"]], abs=1e-3)
    assert server.metric(f'onevision_bundle_info{{bundle="{first}",generation="{_generation(bundle)}"}}') == 0
    assert server.metric(f'onevision_bundle_info{{bundle="{second}",generation="{_generation(bundle)}"}}') == 1


def _generation(bundle: Path) -> str:
    return open_artifact(bundle, verify=False).generation or ""


def test_a_damaged_champion_changes_nothing_until_it_is_put_right(
    serve: Serve, store: str, bundle: Path, other_bundle: Path, photo: bytes
) -> None:
    first = promote(store, bundle)
    server = serve(store=store)
    second = open_artifact(other_bundle, verify=False).identity
    upload_bundle(other_bundle, store, second)
    weights = Path(store, BUNDLES, second, "generator", "model.safetensors")
    good = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    point(store, second)
    wait_until(lambda: server.metric('onevision_reloads_total{outcome="failed"}') >= 2)
    assert served(server) == first
    assert server.client.get("/v2/health/ready").status_code == 200
    assert server.search(photo).json()["bundle"] == first
    weights.write_bytes(good)
    wait_until(lambda: served(server) == second)


def test_every_size_of_batch_has_been_ranked_before_a_bundle_answers(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    rank = Searcher.rank

    def watched(self: Searcher, pixels: Any, *arguments: Any, **named: Any) -> list[Answer]:
        sizes.append(len(pixels))
        return rank(self, pixels, *arguments, **named)

    monkeypatch.setattr(Searcher, "rank", watched)
    load(str(bundle), batch=5)
    assert sorted(sizes) == [1, 2, 3, 4, 5]


def test_the_canary_watches_searches_and_not_the_warm_up(
    bundle: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beams = int(open_artifact(bundle, verify=False).extra["beam_width"])
    unlike = Seen({"image tokens": (1e8, 1e9)}, beams)
    monkeypatch.setattr(Seen, "read", classmethod(lambda cls, path: unlike))
    searcher = load(str(bundle), batch=10)  # 55 photos, more than are watched
    for _ in range(SEARCHES - 1):
        searcher.search(photo, None, 3)
        assert "pruning is off" not in caplog.text
    searcher.search(photo, None, 3)
    assert "pruning is off" in caplog.text


def test_other_beams_than_were_calibrated_are_said_at_load(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beams = int(open_artifact(bundle, verify=False).extra["beam_width"])
    seen = Seen({"image tokens": (0, 1e9)}, beams)
    monkeypatch.setattr(Seen, "read", classmethod(lambda cls, path: seen))
    load(str(bundle), batch=1)
    assert "beams" not in caplog.text
    monkeypatch.setattr(Seen, "read", classmethod(lambda cls, path: Seen(seen.bounds, beams + 1)))
    load(str(bundle), batch=1)
    assert f"pruning was calibrated with {beams + 1} beams and {beams} are served" in caplog.text
    assert f"evaluation.beam_width={beams + 1}" in caplog.text


def test_a_rollback_is_followed(serve: Serve, store: str, bundle: Path, other_bundle: Path) -> None:
    first, _ = promote(store, bundle), promote(store, other_bundle)
    server = serve(store=store)
    point(store, first)
    wait_until(lambda: served(server) == first)


def test_a_store_without_a_champion_is_waited_for(serve: Serve, store: str, bundle: Path, photo: bytes) -> None:
    server = serve(store=store, ready=False)
    assert server.client.get("/v2/health/live").status_code == 200
    assert server.search(photo).status_code == 503
    promote(store, bundle)
    server.wait_until_ready()
    assert server.search(photo).status_code == 200


@pytest.mark.parametrize("pointer", [{"bundle": "../../etc"}, {"bundle": 3}, {}, {"bundle": "0123456789abcdef"}])
def test_a_pointer_that_names_no_bundle_is_not_followed(
    serve: Serve, store: str, bundle: Path, pointer: dict[str, object]
) -> None:
    first = promote(store, bundle)
    server = serve(store=store)
    Path(store, "champion.json").write_text(json.dumps(pointer))
    wait_until(lambda: server.metric('onevision_reloads_total{outcome="failed"}') >= 2)
    assert served(server) == first


def test_a_store_that_cannot_be_read_leaves_the_bundle_that_answers(
    serve: Serve, store: str, bundle: Path, photo: bytes
) -> None:
    first = promote(store, bundle)
    server = serve(store=store)
    checked = server.metric("onevision_champion_checked_timestamp_seconds")
    shutil.rmtree(store)
    wait_until(lambda: server.metric('onevision_reloads_total{outcome="failed"}') >= 2)
    assert server.search(photo).json()["bundle"] == first
    last = server.metric("onevision_champion_checked_timestamp_seconds")
    wait_until(lambda: server.metric('onevision_reloads_total{outcome="failed"}') >= 4)
    assert server.metric("onevision_champion_checked_timestamp_seconds") == last >= checked
