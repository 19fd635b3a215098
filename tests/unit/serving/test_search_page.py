"""The search page: served without anything from outside, and, where there is a Chromium, used as a person does."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.browser import CHROMIUM, Page
from support.servers import RunningServer

from onevision.artifacts import open_artifact
from onevision.data.snapshot import Snapshot
from onevision.data.store import read_pointer, swap_pointer
from onevision.publishing.promotion import upload_bundle
from onevision.serving.page import FILES, FOLDER, SAMPLES


@pytest.fixture(scope="module")
def server(bundle: Path, tiny_snapshot: Path, evaluation: Path) -> Iterator[RunningServer]:
    sources = {"bundle": str(bundle), "snapshot": str(tiny_snapshot), "cascade": evaluation}
    running = RunningServer(**sources).wait_until_ready()
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


def test_samples_are_the_photos_of_the_newest_searches_as_they_were_sent(
    server: RunningServer, tiny_snapshot: Path
) -> None:
    shop, samples = Snapshot.open(tiny_snapshot), server.client.get("/page/about").json()["samples"]
    asked = [row for row in shop.table("events").to_pylist() if row["query_image_id"]]
    newest = sorted(asked, key=lambda row: (-row["ts"].timestamp(), row["query_id"]))
    assert samples == list(dict.fromkeys(row["query_image_id"] for row in newest))[:SAMPLES]
    assert len(samples) == SAMPLES
    answer = server.client.get(f"/samples/{samples[0]}")
    assert answer.content == shop.images.read(samples[0])
    assert answer.headers["content-type"] == Image.MIME[Image.open(io.BytesIO(answer.content)).format or ""]
    for other in ("none", "..%2f..%2fetc%2fpasswd", next(iter(shop.table("images")["image_id"].to_pylist()))):
        assert server.client.get(f"/samples/{other}").status_code == 404


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
        page.wait_for(
            "!document.getElementById('stage').hidden && !document.getElementById('found').textContent.endsWith('...')"
        )
        page.value("document.getElementById('whole').click()")
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
        shown = "[...document.querySelectorAll('.answer img')].slice(0, 4)"
        page.wait_for(f"{shown}.every((i) => i.complete && i.naturalWidth == 240)")
        pixel = page.value(
            "createImageBitmap(fetched[0]).then((b) => { const c = new OffscreenCanvas(b.width, b.height);"
            "const p = c.getContext('2d'); p.drawImage(b, 0, 0);"
            "return [b.width, b.height, ...p.getImageData(b.width - 3, 50, 1, 1).data]; })"
        )
        assert pixel[:2] == [100, 100]
        assert pixel[2] > 200 > 60 > pixel[4], "the crop that was dragged to the left is the red half"
        assert page.errors == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_lays_the_cascade_beside_the_generator(server: RunningServer, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(photo)
    with Page() as page:
        page.call("Page.navigate", url=server.url)
        page.wait_for("document.getElementById('beside')?.hidden === false")
        page.choose_file("#photo", tmp_path / "photo")
        page.wait_for("!document.getElementById('go').disabled")
        page.value("document.querySelector('[name=cascade]').focus()")
        page.press(" ")
        page.value("for (const n of ['a', 'b']) document.querySelector(`[name=${n}]`).value = 'user ' + n; 0")
        page.value("document.querySelector('[name=k]').value = 3")
        page.value("document.querySelector('[name=a]').focus()")
        page.press("Enter")
        page.wait_for("document.querySelectorAll('.answer').length == 4")
        assert page.value("[...document.querySelectorAll('h2')].map((h) => h.textContent)") == [
            f"As user {user}: {system}" for user in "ab" for system in ("generator", "cascade")
        ]
        assert (
            page.value("[...document.querySelectorAll('.answer')].map((a) => a.querySelectorAll('li').length)")
            == [3] * 4
        )
        notes = page.value("[...document.querySelectorAll('.answer > .quiet')].map((p) => p.textContent)")
        assert ["answered by the cascade" in note for note in notes] == [False, True, False, True]
        best = server.search(photo, k=3, system="cascade").json()["hits"][0]["item_id"]
        assert best in page.value("document.querySelectorAll('.answer')[1].querySelector('.about').textContent")
        across = "[...document.querySelectorAll('.answer')].map((a) => a.getBoundingClientRect().left)"
        assert len(set(page.value(across))) == 2, "a column for each system"
        page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        page.wait_for("document.documentElement.scrollWidth <= 390")
        assert len(set(page.value(across))) == 1, "on a phone they are below each other"
        assert page.errors == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_box_is_there_only_where_a_cascade_answers(
    serve: Callable[..., RunningServer], bundle: Path, other_encoder_bundle: Path, evaluation: Path, tmp_path: Path
) -> None:
    store = str(tmp_path)
    identity = open_artifact(other_encoder_bundle).identity
    upload_bundle(other_encoder_bundle, store, identity)
    swap_pointer(store, {"bundle": identity}, read_pointer(store)[1])
    for sources, said in (({"bundle": str(bundle)}, False), ({"store": store, "cascade": evaluation}, True)):
        running = serve(**sources)
        with Page() as page:
            page.call("Page.navigate", url=running.url)
            page.wait_for("document.getElementById('bundle')?.textContent.startsWith('bundle')")
            assert page.value("document.getElementById('beside').hidden")
            assert ("the cascade is off" in page.value("document.getElementById('bundle').textContent")) is said


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_picks_a_sample(server: RunningServer, tiny_snapshot: Path) -> None:
    about = server.client.get("/page/about").json()
    with Page() as page:
        page.call("Page.navigate", url=server.url)
        page.wait_for(f"document.querySelectorAll('#samples img').length == {SAMPLES}")
        page.wait_for("[...document.querySelectorAll('#samples img')].every((i) => i.complete && i.naturalWidth)")
        page.value("document.querySelectorAll('#samples button')[1].focus()")
        page.press("Enter")
        page.wait_for("!document.getElementById('go').disabled")
        page.wait_for("!document.getElementById('found').textContent.endsWith('...')")
        page.value("document.getElementById('whole').click()")
        page.value("document.getElementById('go').click()")
        page.wait_for("document.querySelectorAll('.answer li').length")
        photo = Snapshot.open(tiny_snapshot).images.read(about["samples"][1])
        best = server.search(photo, k=1).json()["hits"][0]["item_id"]
        assert best in page.value("document.querySelector('.about').textContent")
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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_starts_from_the_detected_crop(
    serve: Callable[..., RunningServer], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained encoder sees no product anywhere, so that here whatever stands out is taken."""
    monkeypatch.setattr("onevision.serving.crop.LEAD", -10.0)
    running = serve(bundle=str(bundle))
    picture = Image.new("RGB", (400, 200), "grey")
    picture.paste("orange", (300, 20, 360, 80))
    for name in ("1200.png", "390.png"):
        picture.save(tmp_path / name)
    left, top, right, bottom = running.client.post("/page/crop", content=(tmp_path / "390.png").read_bytes()).json()[
        "crop"
    ]
    assert left < 0.75 < 0.9 < right < 1
    assert 0 < top < 0.1 < 0.4 < bottom < 1
    frame = "(({x, y, width, height}) => [x, y, width, height])(document.getElementById('%s').getBoundingClientRect())"
    found = "document.getElementById('found').textContent"
    with Page() as page:
        page.call("Page.navigate", url=running.url)
        page.wait_for("document.querySelectorAll('select option').length == 5")
        for width, height, mobile in ((1200, 1000, False), (390, 800, True)):
            page.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
            )
            page.value("document.getElementById('whole').click()")
            page.choose_file("#photo", tmp_path / f"{width}.png")
            page.wait_for(f"{found}.startsWith('Detected')")
            x, y, across, down = page.value(frame % "canvas")
            detected = page.value(frame % "crop")
            expected = [x + left * across, y + top * down, (right - left) * across, (bottom - top) * down]
            assert detected == pytest.approx(expected, abs=2), "the box shows what the server found"
            assert page.value("document.documentElement.scrollWidth") <= width
        middle = (detected[0] + detected[2] / 2, detected[1] + detected[3] / 2)
        page.drag(middle, (middle[0] - 100, middle[1] + 20))
        assert page.value(frame % "crop")[:2] == pytest.approx([detected[0] - 100, detected[1] + 20], abs=2)
        whole = [x + across / 4, y, down, down]
        page.value("document.getElementById('whole').click()")
        assert page.value(frame % "crop") == pytest.approx(whole, abs=2)
        assert page.value(found) == ""
        page.value("document.getElementById('crop').focus()")
        page.press("-")
        assert page.value(frame % "crop")[2] < down
        page.press("Escape")
        assert page.value(frame % "crop") == pytest.approx(whole, abs=2)
        assert page.errors == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_who_is_faster_than_the_detection_keeps_their_crop(
    server: RunningServer, photo: bytes, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(photo)
    with Page() as page:
        page.call("Page.navigate", url=server.url)
        page.wait_for("document.querySelectorAll('select option').length == 5")
        page.value(
            "window.go = null; window.fetch = (path) => new Promise((resolve) => { window.go = () => resolve("
            "path === '/page/crop' && new Response('{\"crop\": [0.5, 0.5, 0.9, 0.9]}')); }); 0"
        )
        page.choose_file("#photo", tmp_path / "one")
        page.wait_for("window.go !== null")
        page.value("document.getElementById('crop').focus()")
        page.press("-")
        mine = page.value("document.getElementById('crop').style.cssText")
        page.value("window.go()")
        page.wait_for("document.getElementById('found').textContent === ''")
        assert page.value("document.getElementById('crop').style.cssText") == mine
        page.value('window.fetch = async () => new Response(\'{"error": {"message": "too many"}}\', {status: 429}); 0')
        page.choose_file("#photo", tmp_path / "two")
        page.wait_for("document.getElementById('found').textContent.includes('too many')")
        assert not page.value("document.getElementById('go').disabled"), "the whole photo can be searched with"
