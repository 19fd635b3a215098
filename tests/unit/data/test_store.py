"""Artifacts travel whole or not at all, and of racing publishers exactly one wins; on disk and on Cloud Storage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.gcs_emulator import ApiError, GcsEmulator, StoredObject

from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.data import gcs as gcs_module
from onevision.data.store import (
    PointerConflict,
    StoreError,
    download,
    join,
    open_store,
    read_pointer,
    swap_pointer,
    upload,
)
from onevision.errors import ArtifactError


@pytest.fixture
def gcs() -> Iterator[GcsEmulator]:
    with GcsEmulator("shop") as emulator:
        yield emulator


@pytest.fixture(params=["local", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    request.getfixturevalue("gcs")
    return "gs://shop/nightly"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "artifact")


def make_artifact(path: Path, text: str = "one") -> Path:
    start_artifact(path)
    (path / "deep" / "er").mkdir(parents=True)
    (path / "a.bin").write_bytes(b"\r\n--boundary\r\n" * 9)
    (path / "deep" / "er" / "b ä%2F.txt").write_text(text)
    (path / "empty").write_bytes(b"")
    finish_artifact(path, "thing")
    (path / "report.json").write_text("{}")
    return path


def tree(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


# artifacts


def test_an_artifact_comes_back_as_it_was(root: str, artifact: Path, tmp_path: Path) -> None:
    sent = upload(artifact, join(root, "a", "b"))
    got = download(join(root, "a", "b"), tmp_path / "got")
    assert got.identity == sent.identity
    assert tree(tmp_path / "got") == tree(artifact)


def test_a_large_file_comes_back_as_it_was(gcs: GcsEmulator, tmp_path: Path) -> None:
    start_artifact(tmp_path / "a")
    (tmp_path / "a" / "large").write_bytes(bytes(range(256)) * 40_000)  # over the 8 MB that go in one request
    finish_artifact(tmp_path / "a", "thing")
    upload(tmp_path / "a", "gs://shop")
    assert ("PUT", "/upload/storage/v1/b/shop/o") in gcs.calls
    assert tree(download("gs://shop", tmp_path / "got").path) == tree(tmp_path / "a")


def test_the_manifest_is_sent_last(gcs: GcsEmulator, artifact: Path) -> None:
    seen: list[set[str]] = []
    gcs.intercept = lambda method, path: seen.append(set(gcs.buckets["shop"]))
    upload(artifact, "gs://shop/x")
    assert "x/manifest.json" in gcs.buckets["shop"]
    assert all("x/manifest.json" not in names for names in seen[:-1])
    assert len(seen[-1]) == len(tree(artifact)) - 1


def test_sending_twice_changes_nothing(root: str, artifact: Path) -> None:
    first = upload(artifact, root)
    manifest = open_store(root).read("manifest.json")
    assert upload(artifact, root) == first
    assert open_store(root).read("manifest.json") == manifest


def test_another_artifact_is_not_overwritten(root: str, artifact: Path, tmp_path: Path) -> None:
    upload(artifact, root)
    other = make_artifact(tmp_path / "other", "two")
    with pytest.raises(ArtifactError, match="another artifact"):
        upload(other, root)
    assert tree(download(root, tmp_path / "got").path) == tree(artifact)


def test_the_same_artifact_with_the_counts_of_another_attempt_is_there_already(
    root: str, artifact: Path, tmp_path: Path
) -> None:
    sent = upload(artifact, root)
    again = finish_artifact(artifact, "thing", counts={"shards": 2}, extra={"night": "another"})
    assert again.identity == sent.identity
    upload(artifact, root)
    assert download(root, tmp_path / "got").counts == {}


def test_a_file_where_a_folder_is_wanted_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no folder")
    with pytest.raises(StoreError, match=r"x\.parquet: is a file"):
        open_store(tmp_path / "x.parquet").read("manifest.json")


def test_a_half_written_artifact_is_neither_sent_nor_fetched(root: str, artifact: Path, tmp_path: Path) -> None:
    (artifact / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        upload(artifact, root)
    open_store(root).send_file(artifact / "a.bin", "a.bin")
    with pytest.raises(ArtifactError, match=r"no manifest\.json there"):
        download(root, tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_an_altered_artifact_is_not_sent(root: str, artifact: Path) -> None:
    (artifact / "a.bin").write_bytes(b"\r\n--boundarx\r\n" * 9)
    with pytest.raises(ArtifactError, match="checksum differs"):
        upload(artifact, root)


def test_a_file_changed_in_the_store_is_refused(root: str, artifact: Path, tmp_path: Path) -> None:
    upload(artifact, root)
    altered = tmp_path / "altered"
    altered.write_bytes(b"\r\n--boundarx\r\n" * 9)
    open_store(root).delete("a.bin")
    open_store(root).send_file(altered, "a.bin")
    with pytest.raises(ArtifactError, match=r"a\.bin: its checksum differs"):
        download(root, tmp_path / "got")
    assert [p.name for p in tmp_path.iterdir() if "got" in p.name] == []


def test_a_file_missing_in_the_store_is_named(gcs: GcsEmulator, artifact: Path, tmp_path: Path) -> None:
    upload(artifact, "gs://shop/x")
    del gcs.buckets["shop"]["x/a.bin"]
    with pytest.raises(ArtifactError, match=r"gs://shop/x/a\.bin: named in the manifest but missing"):
        download("gs://shop/x", tmp_path / "got")


def test_a_manifest_cannot_lead_out_of_the_folder(root: str, artifact: Path, tmp_path: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"]["../../escape"] = manifest["files"]["a.bin"]
    open_store(root).write_if_generation("manifest.json", json.dumps(manifest).encode(), 0)
    with pytest.raises(ArtifactError, match=r"'../../escape', which is outside"):
        download(root, tmp_path / "got")


def test_a_download_needs_an_empty_folder(root: str, artifact: Path, tmp_path: Path) -> None:
    upload(artifact, root)
    (tmp_path / "got").mkdir()
    download(root, tmp_path / "got")
    download(root, tmp_path / "got")  # the same artifact is there: nothing to do
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is not empty"):
        download(root, tmp_path / "mine")


def test_two_who_fetch_at_once_both_get_it(root: str, artifact: Path, tmp_path: Path) -> None:
    upload(artifact, root)
    got: list[Path] = []
    run_together(lambda _: got.append(download(root, tmp_path / "got").path), 4)
    assert got == [tmp_path / "got"] * 4
    assert tree(tmp_path / "got") == tree(artifact)
    assert sorted(p.name for p in tmp_path.iterdir() if "got" in p.name) == ["got"]


def test_a_killed_upload_is_unfinished_wherever_it_is_killed_and_can_be_finished(
    gcs: GcsEmulator, artifact: Path, tmp_path: Path
) -> None:
    upload(artifact, "gs://shop/whole")
    calls = len(gcs.calls)
    for killed_at in range(calls):
        uri, left = f"gs://shop/{killed_at}", iter(range(killed_at))

        def kill(method: str, path: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise ApiError(403, "killed")

        gcs.intercept = kill
        with pytest.raises(StoreError):
            upload(artifact, uri)
        gcs.intercept = lambda method, path: None
        with pytest.raises(ArtifactError, match=r"no manifest\.json"):
            download(uri, tmp_path / "half")
        upload(artifact, uri)
        assert tree(download(uri, tmp_path / f"got-{killed_at}").path) == tree(artifact)


def test_a_lost_answer_is_tried_again(gcs: GcsEmulator, artifact: Path, tmp_path: Path) -> None:
    failures = iter([503, 429, 500])

    def flaky(method: str, path: str) -> None:
        status = next(failures, None)
        if status is not None:
            raise ApiError(status, "try again")

    gcs.intercept = flaky
    upload(artifact, "gs://shop/x")
    assert open_artifact(download("gs://shop/x", tmp_path / "got").path)


# the pointer


def test_a_pointer_is_absent_then_versioned(root: str) -> None:
    assert read_pointer(root) == (None, 0)
    first = swap_pointer(root, {"bundle": "a"}, 0)
    assert read_pointer(root) == ({"bundle": "a"}, first)
    second = swap_pointer(root, {"bundle": "b"}, first)
    assert second > first
    assert read_pointer(root) == ({"bundle": "b"}, second)


def test_a_stale_publisher_is_told_and_changes_nothing(root: str) -> None:
    first = swap_pointer(root, {"bundle": "a"}, 0)
    second = swap_pointer(root, {"bundle": "a"}, first)  # the same value, and still another version
    for stale in (0, first):
        with pytest.raises(PointerConflict, match=r"champion\.json"):
            swap_pointer(root, {"bundle": "c"}, stale)
    assert read_pointer(root) == ({"bundle": "a"}, second)


@pytest.mark.parametrize("there", [False, True])
def test_of_racing_publishers_exactly_one_wins(root: str, there: bool) -> None:
    version = swap_pointer(root, {"bundle": "old"}, 0) if there else 0
    start, won, lost = threading.Barrier(16), [], []

    def publish(name: int) -> None:
        start.wait()
        try:
            won.append((name, swap_pointer(root, {"bundle": name}, version)))
        except PointerConflict:
            lost.append(name)

    run_together(publish, 16)
    assert (len(won), len(lost)) == (1, 15)
    assert read_pointer(root) == ({"bundle": won[0][0]}, won[0][1])


def test_no_update_is_lost_when_publishers_retry(tmp_path: Path) -> None:
    root = str(tmp_path)
    swap_pointer(root, {"count": 0}, 0)

    def add(_: int) -> None:
        for _ in range(10):
            while True:
                value, version = read_pointer(root)
                try:
                    swap_pointer(root, {"count": value["count"] + 1}, version)
                    break
                except PointerConflict:
                    continue

    run_together(add, 4)
    assert read_pointer(root)[0] == {"count": 40}


def test_our_own_write_is_known_when_its_answer_was_lost(gcs: GcsEmulator) -> None:
    put = gcs.put

    def lose_the_first_answer(*args: object) -> dict:
        gcs.put = put
        put(*args)
        raise ApiError(503, "lost")

    gcs.put = lose_the_first_answer
    version = swap_pointer("gs://shop/x", {"bundle": "a"}, 0)
    assert read_pointer("gs://shop/x") == ({"bundle": "a"}, version)


def test_a_damaged_pointer_is_named(gcs: GcsEmulator, tmp_path: Path) -> None:
    gcs.buckets["shop"]["x/champion.json"] = StoredObject(b"{", 1)
    with pytest.raises(StoreError, match=r"gs://shop/x/champion\.json: not valid JSON"):
        read_pointer("gs://shop/x")
    (tmp_path / "champion.json").write_text("[]")
    with pytest.raises(StoreError, match="holds a list"):
        read_pointer(tmp_path)


# what is missing


def test_a_missing_bucket_is_named(gcs: GcsEmulator, artifact: Path, tmp_path: Path) -> None:
    for call in (
        lambda: download("gs://nowhere/x", tmp_path / "got"),
        lambda: upload(artifact, "gs://nowhere/x"),
        lambda: read_pointer("gs://nowhere"),
        lambda: swap_pointer("gs://nowhere", {}, 0),
    ):
        with pytest.raises(StoreError, match="bucket 'nowhere' does not exist"):
            call()


def test_missing_rights_are_named(gcs: GcsEmulator) -> None:
    def forbid(method: str, path: str) -> None:
        raise ApiError(403, "no storage.objects.get")

    gcs.intercept = forbid
    with pytest.raises(StoreError, match=r"role Storage Object User.*no storage\.objects\.get"):
        read_pointer("gs://shop")


def test_missing_credentials_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    gcs_module._client.cache_clear()
    with pytest.raises(StoreError, match="gcloud auth application-default login"):
        read_pointer("gs://shop")


@pytest.mark.parametrize("uri", ["s3://bucket/x", "gs://", "gs:///x"])
def test_other_locations_are_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="gs://bucket/prefix"):
        read_pointer(uri)


def run_together(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
