"""The page of one search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from onevision.data.images import ImageError
from onevision.data.snapshot import Snapshot
from onevision.reporting.gallery import write_gallery
from onevision.reporting.pictures import Thumbnails


@dataclass(frozen=True)
class Item:
    item_id: str
    score: float = 0.5
    sid: tuple[int, ...] = (1, 2, 3)
    category: str | None = "shoes"
    price: float | None = 12.5
    title: str | None = None
    brand: str | None = None


def test_gallery_shows_photo_pictures_and_notes(tiny_snapshot: Path, tmp_path: Path) -> None:
    shop = Snapshot.open(tiny_snapshot)
    photo = shop.images.read(shop.images.ids[0])
    out = write_gallery(
        [Item("i000", title="<i>red</i>"), Item("i001")],
        tmp_path / "new" / "gallery.html",
        photo=photo,
        snapshot=tiny_snapshot,
        user_id="u01",
        notes=["unknown user"],
    )
    page = out.read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "unknown user" in page
    assert "&lt;i&gt;red" in page
    assert "1-2-3" in page


def test_gallery_without_a_snapshot_or_hits_is_still_a_page(tmp_path: Path) -> None:
    page = write_gallery([Item("gone", price=None)], tmp_path / "a.html").read_text()
    assert "no picture" in page
    assert "Nothing was found" in write_gallery([], tmp_path / "b.html").read_text()


def test_photo_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        write_gallery([], tmp_path / "a.html", photo=b"no picture")


def test_thumbnail_of_an_item_is_its_main_view(tiny_snapshot: Path) -> None:
    shop = Snapshot.open(tiny_snapshot)
    pictures = Thumbnails(shop)
    main = next(r for r in shop.table("images").to_pylist() if r["item_id"] == "i003" and r["view"] == "main")
    assert pictures.item("i003") == pictures.image(main["image_id"])
    assert pictures.item("no such item") is None
    assert pictures.image("no such image") is None
