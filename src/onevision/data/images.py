"""Pictures: an image store in tar shards, and a decoder that trusts no byte.

A store is a folder of plain tar files and `index.parquet` (`image_id, shard, offset, size`), written last. Members are
named by their row in the index, so that any string can be an image id and none can climb out of a folder.
Reading is one `os.pread` at a known offset: no seek, no lock, safe from threads and forks
(measured against Parquet and loose files by `benchmarks/bench_image_store.py`).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from onevision.data.threads import map_in_threads
from onevision.errors import ContractError, OneVisionError

INDEX = "index.parquet"
INDEX_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)
DEFAULT_SHARD_BYTES = 256 * 2**20
MAX_PIXELS = 50_000_000
_STRIP = 64
"""Rows that are converted at once."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What shops have. Pillow's other readers (EPS runs Ghostscript) stay shut to uploaded bytes."""
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(OneVisionError):
    """Bytes that are no usable picture; the message says why."""


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}.tar"


class ImageStoreWriter:
    """Writes an image store; a context manager, and only a clean exit writes the index.

    Args:
        folder: made if it is not there.
        shard_bytes: a shard that has reached this size is closed and the next one begun.
    """

    def __init__(self, folder: Path, shard_bytes: int = DEFAULT_SHARD_BYTES) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self._ids: dict[str, None] = {}
        self._places: list[tuple[int, int, int]] = []
        self._shards = 0
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ImageStoreWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, image_id: str, data: bytes) -> None:
        """Append one picture; `ContractError` if the id was added before or is not Unicode text."""
        if image_id in self._ids:
            raise ContractError(
                f"{self.folder}: image_id {image_id!r} appears twice; an image store holds each id once"
            )
        try:
            image_id.encode()
        except UnicodeEncodeError:
            raise ContractError(f"{self.folder}: image_id {image_id!r} is not valid Unicode text") from None
        tar = self._open_shard()
        member = tarfile.TarInfo(f"{len(self._places):09d}")
        member.size = len(data)
        offset = tar.offset + tarfile.BLOCKSIZE
        tar.addfile(member, io.BytesIO(data))
        self._ids[image_id] = None
        self._places.append((self._shards - 1, offset, len(data)))

    def _open_shard(self) -> tarfile.TarFile:
        if self._tar is not None and self._tar.offset >= self.shard_bytes:
            self._tar.close()
            self._tar = None
        if self._tar is None:
            path = self.folder / shard_name(self._shards)
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by the writer)
            self._shards += 1
        return self._tar

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar.close()
        if kind is not None:
            return
        places = np.array(self._places, dtype=np.int64).reshape(-1, 3)
        columns = [pa.array(list(self._ids), pa.string()), *(pa.array(places[:, i]) for i in range(3))]
        index = pa.table(columns, names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
        pq.write_table(index, self.folder / INDEX)


class ImageStore:
    """Random reads from an image store; the index is held in memory.

    Safe to share between threads, to fork and to pickle (a copy opens its own files).

    Raises:
        ContractError: the index or a shard is missing, damaged or disagrees with the other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.ids: list[str] = index["image_id"].to_pylist()
        self._shard = index["shard"].to_numpy()
        self._offset = index["offset"].to_numpy()
        self._size = index["size"].to_numpy()
        self._rows = {image_id: row for row, image_id in enumerate(self.ids)}
        self._files: dict[int, int] = {}
        self._check()

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def __reduce__(self) -> tuple[type[ImageStore], tuple[Path]]:
        return ImageStore, (self.folder,)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)

    def read(self, image_id: str) -> bytes:
        """The picture's bytes, as they were added; `ContractError` if the store has no such id."""
        row = self._rows.get(image_id)
        if row is None:
            raise ContractError(f"{self.folder}: no picture with image_id {image_id!r} in the image store")
        size = int(self._size[row])
        data = os.pread(self._descriptor(int(self._shard[row])), size, int(self._offset[row]))
        if len(data) != size:
            raise ContractError(f"{self.folder}: image_id {image_id!r}: read {len(data)} of {size} bytes")
        return data

    def read_many(self, ids: Iterable[str]) -> Iterator[bytes]:
        """The pictures' bytes in the order of `ids`."""
        return (self.read(image_id) for image_id in ids)

    def _descriptor(self, shard: int) -> int:
        descriptor = self._files.get(shard)
        if descriptor is None:
            opened = os.open(self.folder / shard_name(shard), os.O_RDONLY)
            descriptor = self._files.setdefault(shard, opened)
            if descriptor != opened:  # another thread was first
                os.close(opened)
        return descriptor

    def _check(self) -> None:
        path = self.folder / INDEX
        if len(self._rows) != len(self.ids):
            raise ContractError(f"{path}: column image_id repeats an id; each id stands once")
        if len(self.ids) and min(self._shard.min(), self._offset.min(), self._size.min()) < 0:
            raise ContractError(f"{path}: shard, offset and size cannot be negative")
        for shard in np.unique(self._shard):
            file = self.folder / shard_name(int(shard))
            if not file.exists():
                raise ContractError(f"{file}: named in {INDEX} but missing")
            mine = self._shard == shard
            end, length = int((self._offset[mine] + self._size[mine]).max()), file.stat().st_size
            if end > length:
                raise ContractError(f"{file}: {length} bytes, but {INDEX} points at byte {end}; the shard is truncated")


def _read_index(folder: Path) -> pa.Table:
    path = folder / INDEX
    if not path.exists():
        raise ContractError(f"{path}: no such file; an image store is tar shards and {INDEX}, which is written last")
    try:
        index = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{path}: not a Parquet file ({error})") from None
    for field in INDEX_SCHEMA:
        found = index.schema.field(field.name).type if field.name in index.schema.names else "missing"
        if found != field.type or index[field.name].null_count:
            raise ContractError(f"{path}: column {field.name!r} must be {field.type} without nulls, it is {found}")
    return index


def decode_image(data: bytes, size: int, *, whole: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture to a square: the shorter side becomes `size`, the centre is kept.

    With `whole` it keeps its shape instead: the longer side becomes `size`, nothing is cut off.

    EXIF orientation is applied, transparency is laid on white, 16-bit and CMYK become 8-bit RGB. The size in the
    header is checked before a pixel is decoded, and a JPEG is decoded at a reduced DCT scale where the target is
    small. The same bytes give the same pixels.

    Returns:
        (size, size, 3) uint8, or (height, width, 3).

    Raises:
        ImageError: not a picture, truncated, or more than `max_pixels` pixels.
    """
    image = _open_image(data, max_pixels)
    try:
        image.draft("RGB", (size, size))
        image.load()
    except Exception as error:  # decoders of hostile bytes raise anything
        raise ImageError(f"truncated or damaged {image.format} picture ({error})") from None
    width, height = image.size
    side = max(width, height) if whole else min(width, height)
    columns, rows = (max(1, round(size * min(edge, side) / side)) for edge in image.size)
    left, top = max(0, width - side) / 2, max(0, height - side) / 2
    box = (left, top, width - left, height - top)
    picture = _eight_bit(image).resize((columns, rows), Image.Resampling.BICUBIC, box=box).convert("RGB")
    turn = _ORIENTATIONS.get(_orientation(image))
    return np.array(picture if turn is None else picture.transpose(turn))  # a copy, which may be written to


def check_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> None:
    """`ImageError` unless the bytes decode; as strict as `decode_image`, and as cheap as it can be."""
    decode_image(data, 8, max_pixels=max_pixels)


def load_pixels(store: ImageStore, image_ids: Sequence[str], size: int) -> np.ndarray:
    """Decode many pictures of a store; `ImageError` names the id of one that does not decode.

    Returns:
        (N, size, size, 3) uint8, in the order of `image_ids`.
    """

    pixels = np.empty((len(image_ids), size, size, 3), dtype=np.uint8)
    pictures = map_in_threads(lambda image_id: _decode_named(image_id, store.read(image_id), size), image_ids, "decode")
    for row, picture in enumerate(pictures):
        pixels[row] = picture
    return pixels


def read_pixels(store: ImageStore, image_ids: Sequence[str], size: int) -> np.ndarray:
    """As `load_pixels`, in this thread and without a progress bar: for batches."""
    data = store.read_many(image_ids)
    return np.stack([_decode_named(*named, size) for named in zip(image_ids, data, strict=True)])


def _decode_named(image_id: str, data: bytes, size: int) -> np.ndarray:
    try:
        return decode_image(data, size)
    except ImageError as error:
        raise ImageError(f"image_id {image_id!r}: {error}") from None


def _open_image(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"over the cap of {max_pixels:,} pixels ({error})") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"not an image in one of the formats {', '.join(_FORMATS)}") from None
    except Exception as error:  # decoders of hostile bytes raise anything
        raise ImageError(f"not an image that can be read ({error})") from None
    width, height = image.size
    cap = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)  # past its own cap Pillow only warns
    if width * height > cap:
        raise ImageError(f"{width} x {height} pixels, over the cap of {cap:,}")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a picture with broken EXIF is still a picture
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """The picture in 8-bit grey or RGB, whole: what is converted is converted in strips, which bounds the memory of
    hostile sizes to the picture and its copy."""
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    convert = _high_byte if deep else _on_white if image.has_transparency_data else _colour
    whole = Image.new("L" if deep else "RGB", image.size)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        whole.paste(convert(strip), (0, top))
    return whole


def _high_byte(strip: Image.Image) -> Image.Image:
    """Pillow clips 16 bits at 255, which turns such a picture white."""
    values = np.nan_to_num(np.asarray(strip, dtype=np.float64), posinf=65535, neginf=0)
    return Image.fromarray((np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8))


def _colour(strip: Image.Image) -> Image.Image:
    return strip.convert("RGB")


def _on_white(strip: Image.Image) -> Image.Image:
    layered = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
