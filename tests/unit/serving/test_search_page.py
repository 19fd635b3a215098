"""The search page: served without anything from outside, and, where there is a Chromium, used as a person does."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.browser import CHROMIUM, Page
from support.servers import RunningServer

from onevision.data.snapshot import Snapshot
from onevision.serving.page import FILES, FOLDER


@pytest.fixture(scope="module")
def server(bundle: Path, tiny_snapshot: Path) -> Iterator[RunningServer]:
    running = RunningServer(bundle=str(bundle), snapshot=str(tiny_snapshot)).wait_until_ready()
    yield running
    running.stop()


def test_every_file_of_the_page_is_served_and_names_no_other_place(server: RunningServer) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)
    for path in ("/", *(f"/page/{name}" for name in FILES[1:])):
        answer = server.client.get(path)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert re.findall(r"https?://|//cdn", answer.text) == []


def test_pictures_come_from_the_snapshot(server: RunningServer, tiny_snapshot: Path) -> None:
    answer = server.client.get("/pictures/i001")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (240, 240)
    assert server.client.get("/pictures/none").status_code == 404


def test_the_page_learns_about_the_server(server: RunningServer, bundle: Path, tiny_snapshot: Path) -> None:
    about = server.client.get("/page/about").json()
    assert about["pictures"] is True
    assert about["categories"] == [f"category {n}" for n in range(4)]
    assert set(about["users"]) <= set(Snapshot.open(tiny_snapshot).table("users")["user_id"].to_pylist())
    assert about["users"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_crops_a_photo_and_searches_as_two_users(server: RunningServer, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    left, right = Image.new("RGB", (100, 100), "red"), Image.new("RGB", (200, 100), "blue")
    right.paste(left, (0, 0))
    right.save(photo)
    with Page() as page:
        page.call("Page.navigate", url=server.url)
        page.wait_for("document.querySelectorAll('select option').length == 5")
        assert page.value("document.getElementById('go').disabled")
        page.choose_file("#photo", photo)
        page.wait_for("!document.getElementById('stage').hidden")
        box = page.value("JSON.parse(JSON.stringify(document.getElementById('crop').getBoundingClientRect()))")
        assert box["width"] == pytest.approx(100, abs=1)
        page.drag((box["x"] + 50, box["y"] + 50), (box["x"] - 200, box["y"] + 50))
        page.value(
            "window.fetched = []; const real = window.fetch; window.fetch = (...a) => {"
            "if (a[1]) fetched.push(a[1].body.get('image')); return real(...a); }; 0"
        )
        page.value("for (const n of ['a', 'b']) document.querySelector(`[name=${n}]`).value = 'user ' + n; 0")
        page.value("document.getElementById('go').click()")
        page.wait_for("document.querySelectorAll('.answer').length == 2")
        assert page.value("[...document.querySelectorAll('h2')].map((h) => h.textContent)") == [
            "As user a",
            "As user b",
        ]
        assert page.value("document.querySelectorAll('.answer li').length") == 20
        assert "shared with the photo" in page.value("document.querySelector('.why').textContent")
        assert "cold user" in page.value("document.querySelector('.answer .quiet').textContent")
        page.wait_for("[...document.images].slice(0, 4).every((i) => i.complete && i.naturalWidth == 240)")
        pixel = page.value(
            "createImageBitmap(fetched[0]).then((b) => { const c = new OffscreenCanvas(b.width, b.height);"
            "const p = c.getContext('2d'); p.drawImage(b, 0, 0);"
            "return [b.width, b.height, ...p.getImageData(b.width - 3, 50, 1, 1).data]; })"
        )
        assert pixel[:2] == [100, 100]
        assert pixel[2] > 200 > 60 > pixel[4], "the crop that was dragged to the left is the red half"
        assert page.errors == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_mistake_is_shown_to_the_person(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with Page() as page:
        page.call("Page.navigate", url=server.url)
        page.wait_for("document.querySelectorAll('select option').length == 5")
        page.choose_file("#photo", tmp_path / "text.png")
        page.wait_for("document.getElementById('status').textContent.includes('no picture')")
        assert page.value("document.getElementById('go').disabled")
