"""The result of one search as a page: the photo, and the items found with their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from onevision.data.images import decode_image
from onevision.data.snapshot import Snapshot
from onevision.reporting.pictures import Thumbnails, thumbnail_uri
from onevision.reporting.templates import render

PHOTO, PICTURE = 240, 160


class Found(Protocol):
    """What the page shows of an item; `onevision.serving.search.Hit` is one."""

    @property
    def item_id(self) -> str:
        """The shop's key."""

    @property
    def score(self) -> float:
        """The larger, the better."""

    @property
    def sid(self) -> tuple[int, ...]:
        """Semantic ID."""

    @property
    def category(self) -> str | None:
        """Name of the category."""

    @property
    def price(self) -> float | None:
        """In the shop's currency."""

    @property
    def title(self) -> str | None:
        """Shown to people."""

    @property
    def brand(self) -> str | None:
        """Brand name."""


def write_gallery(
    hits: Sequence[Found],
    out: Path,
    *,
    photo: bytes | None = None,
    snapshot: Path | None = None,
    user_id: str | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write a self-contained page of a search's hits.

    Args:
        photo: the picture that was searched with.
        snapshot: the shop's snapshot; without it the items have no pictures.
        notes: sentences that belong to the answer, such as that the user is unknown.

    Returns:
        `out`.
    """
    pictures = Thumbnails(Snapshot.open(snapshot, verify=False), PICTURE) if snapshot else None
    cards = [{"hit": hit, "picture": pictures.item(hit.item_id) if pictures else None} for hit in hits]
    page = render(
        "gallery.html",
        title="Search by photo",
        photo=thumbnail_uri(decode_image(photo, PHOTO), PHOTO, quality=88) if photo else None,
        cards=cards,
        user_id=user_id,
        notes=list(notes),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out
