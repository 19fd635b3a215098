"""Near copies of a picture, by a 64-bit difference hash (dHash).

The hash says, for each of 8 x 8 places of the shrunken grey picture, whether it grows brighter to the right. It stands
scaling, recompression and changes of brightness; another view of the product changes a large part of its bits.
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


def difference_hash(pixels: np.ndarray) -> int:
    """64-bit dHash of an RGB picture.

    Args:
        pixels: (S, S, 3) uint8.
    """
    grey = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(values[:, 1:] > values[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def hash_pictures(store: ImageStore, image_ids: Sequence[str]) -> np.ndarray:
    """dHash of many pictures, streamed.

    Returns:
        (N,) uint64, in the order of `image_ids`.

    Raises:
        ImageError: a picture that does not decode, by id.
    """
    hashes = np.empty(len(image_ids), dtype=np.uint64)
    for row, image_id in enumerate(tqdm(image_ids, desc="hash pictures", unit="image", disable=None)):
        try:
            hashes[row] = difference_hash(decode_image(store.read(image_id), _DECODE_SIZE))
        except ImageError as error:
            raise ImageError(f"image_id {image_id!r}: {error}; `onevision validate` sets such pictures aside") from None
    return hashes


def copy_groups(hashes: np.ndarray, items: Sequence[str | None], bits: int) -> np.ndarray:
    """Number the groups of near copies: pictures of one item whose hashes differ in at most `bits` bits, and their
    near copies in turn.

    Pictures of nothing known (item None) are near copies if their hashes are equal: there is no item to look in.

    Args:
        hashes: (N,) uint64.
        items: item of each picture.

    Returns:
        (N,) group numbers.
    """
    rows_of: dict[str | None, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, item in enumerate(items):
        rows_of[item][int(hashes[row])].append(row)
    links: list[tuple[int, int]] = []
    for item, rows_of_hash in rows_of.items():
        for equal in rows_of_hash.values():
            links.extend((equal[0], other) for other in equal[1:])
        if item is not None:
            links.extend(_close_pairs(hashes, np.array([rows[0] for rows in rows_of_hash.values()]), bits))
    ends = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1], dtype=bool), tuple(ends)), shape=(len(hashes), len(hashes)))
    return connected_components(graph, directed=False)[1]


def _close_pairs(hashes: np.ndarray, rows: np.ndarray, bits: int) -> Iterator[tuple[int, int]]:
    for place, row in enumerate(rows[:-1]):
        later = rows[place + 1 :]
        apart = np.bitwise_count(hashes[later] ^ hashes[row])
        yield from ((int(row), int(other)) for other in later[apart <= bits])


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
