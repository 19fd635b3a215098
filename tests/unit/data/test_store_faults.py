"""What Cloud Storage and the wire may do to a transfer: it is finished, or an error names the object."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gcs_emulator import ApiError, Dropped, GcsEmulator

from onevision.data import gcs as gcs_module
from onevision.data.store import PointerConflict, StoreError, crc32c, open_store

SMALL = bytes(range(256)) * 3
LARGE = bytes(range(251)) * 45_000  # 11 MB: over what goes in one request, and over two chunks of the tests


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsEmulator]:
    quick = gcs_module._RETRY.with_delay(initial=0.01, maximum=0.02, multiplier=2).with_timeout(1)
    monkeypatch.setattr(gcs_module, "_RETRY", quick)
    monkeypatch.setattr(gcs_module, "_CHUNK", 4 * 2**20)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    with GcsEmulator("shop") as emulator:
        yield emulator


@pytest.fixture(params=[SMALL, LARGE], ids=["one request", "resumable"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(request.param)
    return path


def times(count: int, error: Exception) -> Iterator[None]:
    """Raise `error` the first `count` times, then nothing."""
    for _ in range(count):
        yield error
    while True:
        yield None


def failing(count: int, error: Exception):
    faults = times(count, error)

    def fail(*_: object) -> None:
        fault = next(faults)
        if fault is not None:
            raise fault

    return fail


@pytest.mark.parametrize("fault", [Dropped(), *(ApiError(s, "later") for s in (408, 429, 500, 502, 503, 504))], ids=str)
@pytest.mark.parametrize("place", ["intercept", "after"])
def test_a_passing_fault_is_tried_again(gcs: GcsEmulator, tmp_path: Path, fault: Exception, place: str) -> None:
    (tmp_path / "file").write_bytes(SMALL)
    store = open_store("gs://shop/x")
    for call in (
        lambda: store.send_file(tmp_path / "file", "file"),
        lambda: store.fetch_file("file", tmp_path / "got"),
        lambda: store.write_if_generation("pointer", b"{}", 0),
        lambda: store.read("pointer"),
        store.objects,
        lambda: store.delete("pointer"),
    ):
        setattr(gcs, place, failing(2, fault))
        call()
    assert (tmp_path / "got").read_bytes() == SMALL
    assert list(gcs.buckets["shop"]) == ["x/file"]


def test_a_fault_at_any_request_of_a_resumable_upload_is_got_over(gcs: GcsEmulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)
    open_store("gs://shop/whole").send_file(tmp_path / "file", "file")
    requests = len(gcs.calls)
    assert requests == 4  # the session, and three chunks
    for place in ("intercept", "after"):
        for at in range(requests):
            seen = iter(range(requests * 3))

            def drop(method: str, path: str, at: int = at, seen: Iterator[int] = seen) -> None:
                if next(seen) == at:
                    raise Dropped

            setattr(gcs, place, drop)
            open_store(f"gs://shop/{place}-{at}").send_file(tmp_path / "file", "file")
            setattr(gcs, place, lambda method, path: None)
            assert gcs.buckets["shop"][f"{place}-{at}/file"].data == LARGE


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "dropped"])
def test_a_chunk_that_was_kept_in_part_is_completed(gcs: GcsEmulator, tmp_path: Path, answered: bool) -> None:
    (tmp_path / "file").write_bytes(LARGE)
    cuts = iter([300_000])

    def cut(chunk: bytes) -> bytes:
        size = next(cuts, None)
        if size is not None and not answered:
            gcs.after = failing(1, Dropped())
        return chunk[:size]

    gcs.receive = cut
    open_store("gs://shop").send_file(tmp_path / "file", "file")
    assert gcs.buckets["shop"]["file"].data == LARGE


def test_an_upload_whose_session_is_gone_starts_again(gcs: GcsEmulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)
    gone = failing(1, ApiError(410, "the session expired"))
    gcs.intercept = lambda method, path: gone() if method == "PUT" else None
    open_store("gs://shop").send_file(tmp_path / "file", "file")
    assert gcs.buckets["shop"]["file"].data == LARGE


def test_a_download_cut_off_in_the_middle_goes_on_from_there(gcs: GcsEmulator, tmp_path: Path) -> None:
    store = open_store("gs://shop")
    (tmp_path / "file").write_bytes(LARGE)
    store.send_file(tmp_path / "file", "file")
    cuts, sent = iter([100_000, 300_000]), []

    def cut(body: bytes) -> bytes:
        sent.append(len(body))
        return body[: next(cuts, None)]

    gcs.send = cut
    assert store.fetch_file("file", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == LARGE
    assert len(sent) == 3
    assert sent[0] > sent[1] > sent[2]


def test_bytes_changed_on_the_way_up_are_refused_and_leave_nothing(gcs: GcsEmulator, file: Path) -> None:
    gcs.receive = flip
    with pytest.raises(StoreError, match=r"gs://shop/x/file: its bytes changed on the way"):
        open_store("gs://shop/x").send_file(file, "file")
    assert gcs.buckets["shop"] == {}


@pytest.mark.parametrize("cut", [None, 100_000], ids=["in one go", "resumed"])
def test_bytes_changed_on_the_way_down_are_an_error_that_names_the_object(
    gcs: GcsEmulator, file: Path, tmp_path: Path, cut: int | None
) -> None:
    store = open_store("gs://shop/x")
    store.send_file(file, "file")
    cuts = iter([cut])
    gcs.send = lambda body: flip(body)[: next(cuts, None)]
    for call in (lambda: store.fetch_file("file", tmp_path / "got"), lambda: store.read("file")):
        cuts = iter([cut])
        with pytest.raises(StoreError, match=r"gs://shop/x/file: its bytes changed on the way.*crc32c"):
            call()


def test_a_fault_that_stays_is_an_error_that_names_the_object(gcs: GcsEmulator, file: Path) -> None:
    def down(method: str, path: str) -> None:
        raise ApiError(503, "down")

    gcs.intercept = down
    store = open_store("gs://shop/x")
    for call in (lambda: store.send_file(file, "file"), lambda: store.read("file"), lambda: store.delete("file")):
        with pytest.raises(StoreError, match="gs://shop/x/file: the store does not answer"):
            call()


def test_an_upload_that_is_always_cut_off_is_an_error_that_names_the_object(gcs: GcsEmulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)
    gcs.receive = lambda chunk: chunk[:1000]
    with pytest.raises(StoreError, match="gs://shop/file: its upload is cut off again and again"):
        open_store("gs://shop").send_file(tmp_path / "file", "file")
    assert gcs.buckets["shop"] == {}


def test_a_file_is_never_replaced(gcs: GcsEmulator, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    for store in (open_store("gs://shop"), open_store(tmp_path / "store")):
        store.send_file(tmp_path / "one", "deep/file")
        store.send_file(tmp_path / "one", "deep/file")
        with pytest.raises(PointerConflict, match=r"deep/file: is there already, with other bytes"):
            store.send_file(tmp_path / "two", "deep/file")
        assert store.read("deep/file")[0] == b"one"


def test_of_racing_senders_of_one_file_exactly_one_wins(gcs: GcsEmulator, tmp_path: Path) -> None:
    start, won, lost = threading.Barrier(8), [], []

    def send(number: int) -> None:
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        start.wait()
        try:
            open_store("gs://shop").send_file(tmp_path / str(number), "file")
            won.append(number)
        except PointerConflict:
            lost.append(number)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert gcs.buckets["shop"]["file"].data == b"%d" % won[0]


def test_a_listing_tells_names_sizes_and_checksums(gcs: GcsEmulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(SMALL)
    for root in ("gs://shop/x", str(tmp_path / "store")):
        store = open_store(root)
        assert store.objects() == []
        for name in ("b/file", "a"):
            store.send_file(tmp_path / "file", name)
        version = store.write_if_generation("pointer", b"{}", 0)
        store.write_if_generation("pointer", b"[]", version)
        open_store(f"{root}-beside").send_file(tmp_path / "file", "no part of it")
        found = store.objects()
        assert [(o.name, o.bytes) for o in found] == [("a", 768), ("b/file", 768), ("pointer", 2)]
        assert found[0].checksum() == crc32c(tmp_path / "file")
        assert found[0].updated.tzinfo is not None
        for name in ("b/file", "b/file", "pointer"):
            store.delete(name)
        assert [o.name for o in store.objects()] == ["a"]
        assert store.read("pointer") == (None, 0)


def flip(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:]
