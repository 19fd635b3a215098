"""Near copies of a picture: a 64-bit difference hash (dHash) finds them, a colour thumbnail confirms them.

The hash says, for each of 8 x 8 places of the shrunken grey picture, whether it grows clearly brighter to the right.
It stands scaling, recompression and changes of brightness, but cannot tell colour variants on a white ground apart:
so two pictures are near copies only if their 9 x 8 colour thumbnails correlate as well.

Measured on the synthetic shop (and on real shop photos): with a hash that counts any growth, 2 bits apart, 66 % (99 %)
of copies recompressed at quality 60 are found, for flat grounds flip bits; with the values here, and 4 bits, 99 % and
more; of other views of the same item, 0.1 % (none) pass for a copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from onevision.data.images import ImageError, ImageStore, decode_image

_DECODE_SIZE = 32
"""A reduced DCT scale of common photos: four times what the hash needs, an eighth of the time of a full decode."""
_CLEARLY_BRIGHTER = 4
"""Levels of 255: a smaller step is noise of compression on a flat ground."""
_MIN_CORRELATION = 0.985
_WIDTH, _HEIGHT = 9, 8


def difference_hash(pixels: np.ndarray) -> int:
    """64-bit dHash of an RGB picture.

    Args:
        pixels: (S, S, 3) uint8.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(values[:, 1:] > values[:, :-1] + _CLEARLY_BRIGHTER)
    return int.from_bytes(bits.tobytes(), "big")


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """The picture at 9 x 8 pixels, (216,) uint8."""
    return np.asarray(Image.fromarray(pixels).resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)).ravel()


def fingerprints(store: ImageStore, image_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash and thumbnail of many pictures, streamed (224 bytes a picture are kept).

    Returns:
        (N,) uint64 and (N, 216) uint8, in the order of `image_ids`.

    Raises:
        ImageError: a picture that does not decode, by id.
    """
    hashes = np.empty(len(image_ids), dtype=np.uint64)
    thumbnails = np.empty((len(image_ids), _WIDTH * _HEIGHT * 3), dtype=np.uint8)
    for row, image_id in enumerate(tqdm(image_ids, desc="fingerprints", unit="image", disable=None)):
        try:
            pixels = decode_image(store.read(image_id), _DECODE_SIZE)
        except ImageError as error:
            raise ImageError(f"image_id {image_id!r}: {error}; `onevision validate` sets such pictures aside") from None
        hashes[row], thumbnails[row] = difference_hash(pixels), thumbnail(pixels)
    return hashes, thumbnails


def copy_groups(hashes: np.ndarray, thumbnails: np.ndarray, items: Sequence[str | None], bits: int) -> np.ndarray:
    """Number the groups of near copies: pictures of one item whose hashes differ in at most `bits` bits and whose
    thumbnails correlate, and their near copies in turn.

    Pictures of nothing known (item None) must have equal hashes: there is no item to look in.

    Args:
        hashes: (N,) uint64.
        thumbnails: (N, 216) uint8.
        items: item of each picture.

    Returns:
        (N,) group numbers.
    """
    links: list[tuple[int, int]] = []
    different: dict[tuple[str | None, int], dict[bytes, int]] = defaultdict(dict)
    for row, item in enumerate(items):
        place = (item, 0) if item is not None else (None, int(hashes[row]))
        print_of = hashes[row].tobytes() + thumbnails[row].tobytes()
        first = different[place].setdefault(print_of, row)
        if first != row:  # equal in all that is looked at: needs no comparison of each with each
            links.append((first, row))
    for rows in different.values():
        links.extend(_near_pairs(hashes, thumbnails, np.array(list(rows.values())), bits))
    ends = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1], dtype=bool), tuple(ends)), shape=(len(hashes), len(hashes)))
    return connected_components(graph, directed=False)[1]


def with_equals(groups: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """The groups, joined where they hold pictures that are equal in hash and thumbnail, whatever item they are of.

    A test photo may lie among the pictures under another item's name, or under none: it must not be trained on there.
    """
    rows = np.arange(len(groups))
    prints = np.ascontiguousarray(np.column_stack([hashes.view(np.uint8).reshape(-1, 8), thumbnails]))
    ends = []
    for label in (groups, prints.view(np.dtype((np.void, prints.shape[1]))).ravel()):
        _, first, place = np.unique(label, return_index=True, return_inverse=True)
        ends.append(np.stack([rows, first[place.ravel()]]))
    one, other = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(groups), len(groups)))
    return connected_components(graph, directed=False)[1]


def _near_pairs(hashes: np.ndarray, thumbnails: np.ndarray, rows: np.ndarray, bits: int) -> Iterator[tuple[int, int]]:
    for place, row in enumerate(rows[:-1]):
        later = rows[place + 1 :]
        close = later[np.bitwise_count(hashes[later] ^ hashes[row]) <= bits]
        if len(close):
            alike = _correlation(thumbnails[close], thumbnails[row]) >= _MIN_CORRELATION
            yield from ((int(row), int(other)) for other in close[alike])


def _correlation(many: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of (M, D) with (D,); 0 where a picture is all one level."""
    a = many - many.mean(axis=1, keepdims=True)
    b = one - one.mean()
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum())
    return np.divide(a @ b, norms, out=np.zeros(len(a)), where=norms > 0)


def follow_held_out(split: np.ndarray, held_out: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Move every training picture that is a near copy of a held-out one to the (latest) held-out one's split.

    Args:
        split: (N,) 0 train, 1 validation, 2 test.
        held_out: (N,) whether nothing like the picture may be trained on.
        groups: (N,) groups of near copies.
    """
    latest = np.zeros(len(split), dtype=split.dtype)  # no more groups than rows
    np.maximum.at(latest, groups, np.where(held_out, split, 0))
    return np.where(split == 0, latest[groups], split)


def representatives(groups: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """The row that stands for each row's picture: the first eligible one of its group of near copies.

    Args:
        groups: (N,) groups of near copies, rows in order of preference.
        eligible: (N,) rows that may stand for others and be stood for; every other row stands for itself.
    """
    stands = np.arange(len(groups))
    rows = np.flatnonzero(eligible)
    _, first, group = np.unique(groups[rows], return_index=True, return_inverse=True)
    stands[rows] = rows[first[group]]
    return stands
