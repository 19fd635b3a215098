"""The image store gives back what was put in; the decoder trusts no byte."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onevision.data.images import ImageError, ImageStore, ImageStoreWriter, decode_image, load_pixels
from onevision.errors import ContractError


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def fill(folder: Path, pictures: dict[str, bytes], shard_bytes: int = 2**20) -> ImageStore:
    with ImageStoreWriter(folder, shard_bytes) as writer:
        for image_id, data in pictures.items():
            writer.add(image_id, data)
    return ImageStore(folder)


# the store


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=300), st.binary(max_size=2000), max_size=20), st.integers(1, 4000))
def test_any_ids_and_bytes_come_back(
    tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, bytes], shard_bytes: int
) -> None:
    store = fill(tmp_path_factory.mktemp("store"), pictures, shard_bytes)
    assert store.ids == list(pictures)
    assert list(store.read_many(reversed(pictures))) == list(reversed(pictures.values()))


def test_hostile_ids_stay_inside_the_folder(tmp_path: Path) -> None:
    ids = ["../../escape", "/etc/passwd", "a/b", "..", "", "\0", "con", "x" * 5000, "Ä", "-rf"]
    store = fill(tmp_path / "store", {image_id: image_id.encode() for image_id in ids})
    assert [store.read(image_id) for image_id in ids] == [image_id.encode() for image_id in ids]
    with tarfile.open(tmp_path / "store" / "shard-00000.tar") as shard:
        shard.extractall(tmp_path / "out", filter="data")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{n:09d}" for n in range(len(ids))]


def test_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, {"x": b"1" * 700, "y": b"2"}, shard_bytes=600)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["index.parquet", "shard-00000.tar", "shard-00001.tar"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_an_unknown_id_is_named(tmp_path: Path) -> None:
    store = fill(tmp_path, {"here": b"1"})
    assert "here" in store
    assert "gone" not in store
    with pytest.raises(ContractError, match="'gone'"):
        store.read("gone")


def test_an_id_is_added_once(tmp_path: Path) -> None:
    with ImageStoreWriter(tmp_path) as writer:
        writer.add("twice", b"1")
        with pytest.raises(ContractError, match=r"'twice' appears twice"):
            writer.add("twice", b"2")
    assert ImageStore(tmp_path).read("twice") == b"1"


def test_an_id_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="not valid Unicode"), ImageStoreWriter(tmp_path) as writer:
        writer.add("\ud800", b"1")


def test_a_killed_writer_leaves_no_store(tmp_path: Path) -> None:
    def killed() -> Iterator[bytes]:
        yield b"1"
        raise KeyboardInterrupt

    def write() -> None:
        with ImageStoreWriter(tmp_path) as writer:
            for data in killed():
                writer.add("a", data)

    with pytest.raises(KeyboardInterrupt):
        write()
    with pytest.raises(ContractError, match=r"index\.parquet: no such file"):
        ImageStore(tmp_path)


def test_a_truncated_shard_is_refused_on_open(tmp_path: Path) -> None:
    fill(tmp_path, {"a": b"1" * 100, "b": b"2" * 5000})
    shard = tmp_path / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(ContractError, match="truncated"):
        ImageStore(tmp_path)
    shard.unlink()
    with pytest.raises(ContractError, match=r"shard-00000\.tar: named in index\.parquet but missing"):
        ImageStore(tmp_path)


def test_an_index_of_another_shape_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"a": b"1"})
    index = pq.read_table(tmp_path / "index.parquet")
    pq.write_table(index.drop_columns(["offset"]), tmp_path / "index.parquet")
    with pytest.raises(ContractError, match="column 'offset' must be int64 without nulls, it is missing"):
        ImageStore(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(ContractError, match="not a Parquet file"):
        ImageStore(tmp_path)


def test_threads_and_pickled_copies_read_the_same(tmp_path: Path) -> None:
    pictures = {str(n): bytes([n]) * 2000 for n in range(200)}
    store = fill(tmp_path, pictures, shard_bytes=20_000)
    copy = pickle.loads(pickle.dumps(store))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.read, pictures)) == list(pictures.values())
    assert list(copy.read_many(pictures)) == list(pictures.values())


# the decoder


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_any_shape_become_squares(kind: str) -> None:
    for width, height in ((300, 40), (40, 300), (1, 1), (33, 33)):
        pixels = decode_image(encode(noise(width, height), kind), 32)
        assert pixels.flags.writeable  # torch warns of pixels that are not
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_whole_picture_keeps_its_shape(kind: str) -> None:
    shapes = {(300, 40): (4, 32), (40, 300): (32, 4), (1, 1): (32, 32), (900, 2): (1, 32)}
    for (width, height), shape in shapes.items():
        assert decode_image(encode(noise(width, height), kind), 32, whole=True).shape == (*shape, 3)
    wide = Image.new("RGB", (120, 40), "red")
    wide.paste("blue", (60, 0, 120, 40))
    pixels = decode_image(encode(wide), 12, whole=True)
    assert (pixels[:, :5] == (255, 0, 0)).all()
    assert (pixels[:, 7:] == (0, 0, 255)).all()


def test_the_centre_is_kept() -> None:
    wide = Image.new("RGB", (120, 40), "red")
    wide.paste("blue", (40, 0, 80, 40))
    assert (decode_image(encode(wide), 16)[:, 4:12] == (0, 0, 255)).all()


def test_a_reduced_decode_looks_like_the_full_one() -> None:
    picture = noise(800, 600)
    fast = decode_image(encode(picture, "JPEG", quality=95), 64).astype(int)
    full = decode_image(encode(picture, "PNG"), 64).astype(int)
    assert np.abs(fast - full).mean() < 2


def test_the_same_bytes_give_the_same_pixels() -> None:
    data = encode(noise(500, 400), "JPEG")
    assert np.array_equal(decode_image(data, 48), decode_image(data, 48))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = noise(64, 64)
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode_image(encode(stored, "JPEG", quality=98, exif=exif.tobytes()), 64)
    assert np.abs(got.astype(int) - np.asarray(upright)).mean() < 3


def test_broken_exif_does_not_spoil_a_picture() -> None:
    data = encode(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode_image(data, 16).shape == (16, 16, 3)


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (decode_image(encode(clear), 8) == 255).all()
    palette = Image.new("P", (20, 20), 3)
    palette.putpalette([0, 0, 0] * 256)
    assert (decode_image(encode(palette, transparency=3), 8) == 255).all()
    assert (decode_image(encode(palette, transparency=4), 8) == 0).all()


def test_other_pixel_types_keep_their_tone() -> None:
    grey16 = Image.fromarray(np.full((20, 20), 0x80FF, dtype=np.uint16))
    assert (decode_image(encode(grey16), 8) == 0x80).all()
    cmyk = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    red = decode_image(encode(cmyk, "JPEG", quality=95), 8).mean(axis=(0, 1))
    assert red[0] > 200
    assert red[1:].max() < 60
    assert (decode_image(encode(Image.new("1", (20, 20), 1)), 8) == 255).all()
    assert (decode_image(encode(Image.new("LA", (20, 20), (90, 255))), 8) == 90).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_picture_is_refused(kind: str, share: float) -> None:
    data = encode(noise(200, 200), kind)
    with pytest.raises(ImageError):
        decode_image(data[: int(len(data) * share)], 32)


def test_a_huge_header_is_refused_before_decoding() -> None:
    with pytest.raises(ImageError, match=r"8000 x 8000 pixels, over the cap of 50,000,000"):
        decode_image(png_header(8000, 8000), 32)
    with pytest.raises(ImageError, match="over the cap"):
        decode_image(png_header(30_000, 30_000), 32)
    with pytest.raises(ImageError, match="10 x 10 pixels, over the cap of 99"):
        decode_image(encode(noise(10, 10)), 32, max_pixels=99)


def test_pillows_bomb_warning_is_an_error_whatever_the_cap() -> None:
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageError, match="10000 x 10000 pixels"):
        decode_image(png_header(10_000, 10_000), 32, max_pixels=10**9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="over the cap"):
            decode_image(png_header(10_000, 10_000), 32, max_pixels=10**9)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="not an image"):
        decode_image(data, 32)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=8)
)
def test_damage_gives_a_picture_or_an_image_error(kind: str, place: int, damage: bytes) -> None:
    data = bytearray(encode(noise(40, 40), kind))
    start = place % len(data)
    data[start : start + len(damage)] = damage
    with suppress(ImageError):
        assert decode_image(bytes(data), 16).shape == (16, 16, 3)


def test_load_pixels_keeps_the_order_and_names_a_bad_picture(tmp_path: Path) -> None:
    pictures = {str(n): encode(noise(seed=n)) for n in range(3)}
    store = fill(tmp_path, {**pictures, "bad": b"no picture"})
    pixels = load_pixels(store, ["2", "0"], 16)
    assert np.array_equal(pixels, np.stack([decode_image(pictures["2"], 16), decode_image(pictures["0"], 16)]))
    with pytest.raises(ImageError, match="'bad': not an image"):
        load_pixels(store, ["1", "bad"], 16)


@pytest.mark.parametrize(("mode", "most_mb"), [("I;16", 260), ("RGBA", 520)])
def test_a_small_file_of_the_largest_size_takes_little_more_than_its_pixels(
    tmp_path: Path, mode: str, most_mb: int
) -> None:
    path = tmp_path / "bomb.png"
    Image.new(mode, (7000, 7100)).save(path)
    assert path.stat().st_size < 2**18
    code = (
        "import resource, sys; from pathlib import Path; from onevision.data.images import check_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data, before = Path(sys.argv[1]).read_bytes(), peak()\n"
        "check_image(data)\n"
        "print((peak() - before) // 1024)"
    )
    taken = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(taken.stdout) < most_mb
