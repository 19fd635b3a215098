"""Artifacts: written whole or not at all, verified on reading, identified by content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onevision.artifacts import (
    MANIFEST,
    UNFINISHED,
    Artifact,
    copy_tree,
    finish_artifact,
    open_artifact,
    read_json,
    require_same_generation,
    start_artifact,
    write_json,
)
from onevision.errors import ArtifactError
from onevision.report import StageReport


def write(path: Path, text: str = "content", kind: str = "pairs", **arguments: object) -> Artifact:
    start_artifact(path)
    (path / "data.txt").write_text(text)
    return finish_artifact(path, kind, **arguments)  # type: ignore[arg-type]


def test_opened_artifact_is_the_finished_one(tmp_path: Path) -> None:
    written = write(tmp_path / "a", counts={"rows": 3}, extra={"note": "x"})
    assert open_artifact(tmp_path / "a", "pairs") == written


def test_same_content_gives_the_same_identity_in_another_folder(tmp_path: Path) -> None:
    assert write(tmp_path / "a").identity == write(tmp_path / "b").identity
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


@pytest.mark.parametrize("change", ["text", "kind", "parent"])
def test_identity_follows_content_kind_and_parents(tmp_path: Path, change: str) -> None:
    parent = write(tmp_path / "parent", "p")
    other = write(tmp_path / "other", "q")
    base = write(tmp_path / "a", parents={"x": parent})
    changed = write(
        tmp_path / "b",
        text="changed" if change == "text" else "content",
        kind="features" if change == "kind" else "pairs",
        parents={"x": other if change == "parent" else parent},
    )
    assert base.identity != changed.identity


def test_report_beside_an_artifact_does_not_change_it(tmp_path: Path) -> None:
    identity = write(tmp_path / "a").identity
    StageReport("pair", seconds=3.0).save(tmp_path / "a")
    assert open_artifact(tmp_path / "a").identity == identity


def test_half_written_artifact_is_refused(tmp_path: Path) -> None:
    folder = start_artifact(tmp_path / "a")
    (folder / "data.txt").write_text("half")
    with pytest.raises(ArtifactError, match="did not finish"):
        open_artifact(folder)


def test_restart_removes_what_a_killed_attempt_left(tmp_path: Path) -> None:
    write(tmp_path / "a")
    start_artifact(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == [UNFINISHED]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        open_artifact(tmp_path / "nowhere")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", kind="features")
    with pytest.raises(ArtifactError, match="'features' artifact, a 'pairs' artifact is wanted"):
        open_artifact(tmp_path / "a", "pairs")


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    manifest = read_json(tmp_path / "a" / MANIFEST)
    write_json(tmp_path / "a" / MANIFEST, manifest | {"schema_version": 99})
    with pytest.raises(ArtifactError, match="schema version 99"):
        open_artifact(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "verify", "message"),
    [("altered!", True, "bytes"), ("CONTENT", True, "checksum"), (None, False, "missing")],
)
def test_altered_file_is_named(tmp_path: Path, content: str | None, verify: bool, message: str) -> None:
    write(tmp_path / "a")
    file = tmp_path / "a" / "data.txt"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ArtifactError, match=rf"data\.txt.*{message}"):
        open_artifact(tmp_path / "a", verify=verify)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', "\x00"])
def test_damaged_manifest_is_an_artifact_error(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=MANIFEST):
        open_artifact(tmp_path / "a")


def test_generation_is_inherited(tmp_path: Path) -> None:
    quantizer = write(tmp_path / "q", "q", generation="g1")
    assert write(tmp_path / "ids", "i", parents={"quantizer": quantizer}).generation == "g1"


def test_generations_do_not_mix(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "1", generation="g1")
    two = write(tmp_path / "two", "2", generation="g2")
    with pytest.raises(ArtifactError, match="different generations"):
        require_same_generation(one, two)
    with pytest.raises(ArtifactError, match="different generations"):
        write(tmp_path / "both", parents={"one": one, "two": two})


def test_a_copy_holds_files_where_the_original_has_links(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "data").write_text("here")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "data").symlink_to(Path("..", "far", "data"))
    copy_tree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    copied = tmp_path / "elsewhere" / "b" / "data"
    assert not copied.is_symlink()
    assert copied.read_text() == "here"


def test_copied_artifact_has_the_same_identity(tmp_path: Path) -> None:
    written = write(tmp_path / "a")
    copy_tree(tmp_path / "a", tmp_path / "b")
    assert open_artifact(tmp_path / "b").identity == written.identity


def test_missing_file_of_an_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no file 'other\.txt'"):
        write(tmp_path / "a").file("other.txt")


def test_json_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": 1}


def test_whoever_may_read_the_manifest_may_read_the_files(tmp_path: Path) -> None:
    start_artifact(tmp_path / "a")
    (tmp_path / "a" / "data.txt").write_text("content")
    (tmp_path / "a" / "data.txt").chmod(0o600)  # as safetensors leaves its files
    finish_artifact(tmp_path / "a", "pairs")
    assert (tmp_path / "a" / "data.txt").stat().st_mode == (tmp_path / "a" / MANIFEST).stat().st_mode


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ArtifactError, match=r"data\.txt: may not be read"):
        open_artifact(tmp_path / "a")
