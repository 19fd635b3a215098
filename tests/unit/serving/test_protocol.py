"""The open inference protocol: metadata, health and infer, with its own form of errors."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import RunningServer

from onevision.serving.search import Searcher

MODEL = "/v2/models/onevision"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[RunningServer]:
    running = RunningServer(bundle=str(bundle), settings={"max_k": 50, "max_batch": 4}).wait_until_ready()
    yield running
    running.stop()


def tensor(name: str, values: list[str], **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(values)], "datatype": "BYTES", "data": values} | changes


@pytest.fixture
def image(photo: bytes) -> dict[str, Any]:
    return tensor("image", [base64.b64encode(photo).decode()] * 2)


def test_health_and_metadata(server: RunningServer, searcher: Searcher) -> None:
    assert server.client.get("/v2").json()["name"] == "onevision"
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready"):
        assert server.client.get(path).status_code == 200
    metadata = server.client.get(MODEL).json()
    assert metadata["versions"] == [searcher.bundle.identity]
    assert [entry["name"] for entry in metadata["inputs"]] == ["image", "user"]
    assert server.client.get("/v2/models/other").status_code == 404


def test_infer_answers_as_search(
    server: RunningServer, searcher: Searcher, photo: bytes, image: dict[str, Any]
) -> None:
    body = {"id": "mine", "parameters": {"k": 30}, "inputs": [image, tensor("user", ["", "ann"])]}
    answer = server.client.post(f"{MODEL}/infer", json=body).json()
    hits = searcher.search(photo, None, 30)
    found = {output["name"]: output for output in answer["outputs"]}
    assert (answer["id"], answer["model_version"]) == ("mine", searcher.bundle.identity)
    assert found["found"]["data"] == [len(hits)] * 2
    assert found["item_id"]["shape"] == found["score"]["shape"] == [2, 30]
    padded = [hit.item_id for hit in hits] + [""] * (30 - len(hits))
    assert found["item_id"]["data"] == padded * 2
    assert found["score"]["data"][: len(hits)] == pytest.approx([hit.score for hit in hits], abs=1e-3)
    assert len(found["score"]["data"]) == 60


def test_only_the_outputs_asked_for(server: RunningServer, image: dict[str, Any]) -> None:
    body = {"inputs": [image], "outputs": [{"name": "found"}]}
    outputs = server.client.post(f"{MODEL}/infer", json=body).json()["outputs"]
    assert [output["name"] for output in outputs] == ["found"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, "'image' is missing"),
        ({"inputs": [tensor("image", [])]}, "missing or empty"),
        ({"inputs": [tensor("image", ["!!"])]}, "not base64"),
        ({"inputs": [tensor("image", ["AAAA"])]}, "not an image"),
        ({"inputs": [tensor("image", ["AAAA"] * 5)]}, "at most 4"),
        ({"inputs": [tensor("image", ["AAAA"], shape=[2])]}, "1 values, shape"),
        ({"inputs": [tensor("image", ["AAAA"], datatype="FP32")]}, "datatype BYTES"),
        ({"inputs": [tensor("image", ["AAAA"]), tensor("image", ["AAAA"])]}, "twice"),
        ({"inputs": [tensor("image", ["AAAA"]), tensor("user", ["a", "b"])]}, "1 photos but 2 users"),
        ({"inputs": [tensor("pixels", ["AAAA"])]}, "no input 'pixels'"),
        ({"outputs": [{"name": "vector"}]}, "no output 'vector'"),
        ({"parameters": {"k": 51}}, "over the cap of 50"),
        ({"parameters": {"k": "ten"}}, "parameters.k"),
        ({"parameters": {"beams": 3}}, "parameters.beams: unknown key"),
    ],
)
def test_mistakes_are_named(server: RunningServer, image: dict[str, Any], change: dict[str, Any], message: str) -> None:
    answer = server.client.post(f"{MODEL}/infer", json={"inputs": [image]} | change)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_the_binary_extension_is_refused(server: RunningServer) -> None:
    headers = {"Inference-Header-Content-Length": "10"}
    answer = server.client.post(f"{MODEL}/infer", content=b"x" * 20, headers=headers)
    assert answer.status_code == 400
    assert "binary" in answer.json()["error"]
