from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from onevision import arrays
from onevision.arrays import ArrayWriter, Layout, concatenate_files, map_arrays
from onevision.errors import ArtifactError

RNG = np.random.default_rng(0)
ARRAYS = {
    "tokens": RNG.normal(size=(7, 3, 2)).astype(np.float16),
    "embedding": RNG.normal(size=(7, 5)).astype(np.float32),
    "category": RNG.normal(size=(7, 3)).astype(np.float16),
    "item": np.arange(7),
}


def write(path: Path, values: dict[str, np.ndarray], rows: int) -> Path:
    with ArrayWriter(path, {name: Layout(value.dtype, value.shape) for name, value in values.items()}) as writer:
        for start in range(0, 7, rows):
            for name, value in values.items():
                writer.write(name, start, value[start : start + rows])
    return path


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_files_written_in_parts_are_those_of_safetensors(tmp_path: Path, rows: int) -> None:
    save_file(ARRAYS, tmp_path / "whole")
    assert write(tmp_path / "parts", ARRAYS, rows).read_bytes() == (tmp_path / "whole").read_bytes()


def test_mapped_arrays_are_what_was_saved_and_cannot_be_changed(tmp_path: Path) -> None:
    mapped = map_arrays(write(tmp_path / "file", ARRAYS, 3))
    assert mapped.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(mapped[name], value)
        assert mapped[name].dtype == value.dtype
    with pytest.raises(ValueError, match="read-only"):
        mapped["item"][0] = 1


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "file", {"x": Layout(np.dtype(np.float32), (3, 2))}) as writer:
        for first, rows in (
            (2, np.zeros((2, 2), np.float32)),
            (0, np.zeros((1, 3), np.float32)),
            (0, np.zeros((1, 2))),
        ):
            with pytest.raises(ValueError, match="does not fit"):
                writer.write("x", first, rows)


def test_files_are_put_together_and_their_numbers_shifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "ROWS_A_COPY", 2)
    paths = []
    for part, (items, views) in enumerate([(2, [0, 0, 1]), (0, []), (3, [0, 1, 2, 2, 2])]):
        paths.append(tmp_path / str(part))
        values = {"embedding": np.full((items, 2), part, np.float32), "view_item": np.array(views, np.int64)}
        save_file(values, paths[-1])
    concatenate_files(paths, tmp_path / "all", numbers={"view_item": "embedding"})
    found = load_file(tmp_path / "all")
    assert found["view_item"].tolist() == [0, 0, 1, 2, 3, 4, 4, 4]
    assert found["embedding"][:, 0].tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not an array at all", (1 << 62).to_bytes(8, "little")])
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ArtifactError, match=str(tmp_path / "x")):
        map_arrays(tmp_path / "x")
