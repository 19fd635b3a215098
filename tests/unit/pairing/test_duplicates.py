"""Promises of the perceptual hash and of the groups of near copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.snapshots import draw_picture

from onevision.data.images import ImageError, ImageStore, ImageStoreWriter, decode_image
from onevision.pairing.duplicates import (
    copy_groups,
    difference_hash,
    fingerprints,
    follow_held_out,
    representatives,
    thumbnail,
    with_equals,
)


def picture_hash(data: bytes) -> int:
    return difference_hash(decode_image(data, 32))


def bits_apart(one: bytes, other: bytes) -> int:
    return (picture_hash(one) ^ picture_hash(other)).bit_count()


def test_hash_reads_growing_brightness_row_by_row() -> None:
    ramp = np.tile(np.arange(36, dtype=np.uint8)[None, :, None] * 7, (36, 1, 3))
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1]) == 0
    half = ramp.copy()
    half[18:] = half[18:, ::-1]
    assert difference_hash(half) == (2**32 - 1) << 32


def test_hash_stands_scaling_and_recompression_and_tells_pictures_apart() -> None:
    rng = np.random.default_rng(0)
    picture = draw_picture("i001", rng)
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture)).resize((96, 96), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=70)
    assert bits_apart(picture, stream.getvalue()) <= 2
    others = [bits_apart(picture, draw_picture(f"i{n:03d}", rng)) for n in range(2, 12)]
    assert min(others) > 10


def patterns(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 216)).astype(np.uint8)


def test_groups_stay_within_an_item_and_chain_near_copies() -> None:
    hashes = np.array([0b0000, 0b0011, 0b1111, 0b0000, 0xFF << 40], dtype=np.uint64)
    same = np.repeat(patterns(1), 5, axis=0)
    groups = copy_groups(hashes, same, ["a", "a", "a", "b", "a"], bits=2)
    assert groups[0] == groups[1] == groups[2], "the middle one is two bits from either"
    assert len({groups[0], groups[3], groups[4]}) == 3
    assert len(set(copy_groups(hashes, same, ["a", "a", "a", "b", "a"], bits=1))) == 5


def test_equal_hash_without_equal_colours_is_no_copy() -> None:
    one, other = patterns(2)
    brighter = (one * 0.8 + 20).astype(np.uint8)
    groups = copy_groups(np.zeros(3, dtype=np.uint64), np.stack([one, other, brighter]), ["a"] * 3, bits=64)
    assert groups[0] == groups[2]
    assert groups[0] != groups[1]


def test_colour_variants_on_white_are_no_copies_but_a_recompressed_one_is() -> None:
    def vase(colour: str) -> bytes:
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).ellipse((30, 20, 66, 80), fill=colour)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=95)
        return stream.getvalue()

    stream = io.BytesIO()
    Image.open(io.BytesIO(vase("#c03030"))).save(stream, "JPEG", quality=50)
    pictures = [decode_image(data, 32) for data in (vase("#c03030"), vase("#3060c0"), stream.getvalue())]
    hashes = np.array([difference_hash(p) for p in pictures], dtype=np.uint64)
    groups = copy_groups(hashes, np.stack([thumbnail(p) for p in pictures]), ["vase"] * 3, bits=4)
    assert groups[0] == groups[2]
    assert groups[0] != groups[1]


def test_pictures_of_nothing_known_are_copies_only_when_their_hashes_are_equal() -> None:
    hashes = np.array([7, 6, 7, 7], dtype=np.uint64)
    groups = copy_groups(hashes, np.repeat(patterns(1), 4, axis=0), [None, None, None, "a"], bits=2)
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3


def test_many_equal_pictures_need_no_comparison_of_each_with_each() -> None:
    groups = copy_groups(np.zeros(30_000, np.uint64), np.zeros((30_000, 216), np.uint8), ["a"] * 30_000, bits=2)
    assert set(groups) == {groups[0]}


def test_equal_pictures_are_joined_whatever_item_they_are_of() -> None:
    thumbnails = np.repeat(patterns(2), [3, 1], axis=0)
    hashes = np.array([7, 7, 7, 7], dtype=np.uint64)
    groups = copy_groups(hashes, thumbnails, ["a", None, "b", "c"], bits=2)
    assert len(set(groups)) == 4
    joined = with_equals(groups, hashes, thumbnails)
    assert joined[0] == joined[1] == joined[2] != joined[3]
    other_hash = with_equals(groups, np.array([7, 7, 5, 7], dtype=np.uint64), thumbnails)
    assert other_hash[0] == other_hash[1] != other_hash[2]


def test_training_copy_follows_the_latest_held_out_picture() -> None:
    split = np.array([0, 1, 2, 0, 0, 2])
    held_out = np.array([False, True, True, False, False, False])
    groups = np.array([0, 0, 0, 1, 2, 2])
    assert follow_held_out(split, held_out, groups).tolist() == [2, 1, 2, 0, 0, 2]


def test_first_eligible_picture_of_a_group_stands_for_it() -> None:
    groups = np.array([3, 3, 3, 1, 1])
    eligible = np.array([False, True, True, True, False])
    assert representatives(groups, eligible).tolist() == [0, 1, 1, 3, 4]


def test_picture_that_does_not_decode_is_named(tmp_path) -> None:
    with ImageStoreWriter(tmp_path) as writer:
        writer.add("broken", b"no picture")
    with pytest.raises(ImageError, match=r"'broken'.*validate"):
        fingerprints(ImageStore(tmp_path), ["broken"])
