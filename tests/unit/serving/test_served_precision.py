"""A server with `precision=bf16` ranks in bfloat16, and nearly as in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.servers import RunningServer

from onevision.data.snapshot import Snapshot
from onevision.precision import Precision
from onevision.serving.search import Searcher

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def test_the_first_ten_of_bf16_are_those_of_fp32(other_bundle: Path, tiny_snapshot: Path) -> None:
    full, half = Searcher.open(other_bundle), Searcher.open(other_bundle, precision="bf16")
    assert full._ranker.model.decoder_norm.weight.dtype == torch.float32
    assert half._ranker.model.decoder_norm.weight.dtype == torch.bfloat16
    images = Snapshot.open(tiny_snapshot).images
    photos = [images.read(image) for image in images.ids[-20:]]
    shared, scores = [], []
    answers = (searcher.search_many(photos, [None] * len(photos), 10) for searcher in (full, half))
    for expected, found in zip(*answers, strict=True):
        wanted = {hit.item_id: hit.score for hit in expected.hits}
        shared.append(np.mean([hit.item_id in wanted for hit in found.hits]))
        scores += [hit.score - wanted[hit.item_id] for hit in found.hits if hit.item_id in wanted]
    assert np.mean(shared) > 0.9
    assert 0 < np.median(np.abs(scores)) < 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_server_ranks_as_its_setting_says(
    precision: Precision, serve: Callable[..., RunningServer], other_bundle: Path, photo: bytes
) -> None:
    server = serve(bundle=str(other_bundle), settings={"precision": precision})
    searchers = {p: Searcher.open(other_bundle, precision=p) for p in PRECISIONS}
    scores = {p: [hit.score for hit in searcher.search(photo, None, 5)] for p, searcher in searchers.items()}
    answered = [hit["score"] for hit in server.search(photo, k=5).json()["hits"]]
    assert scores["fp32"] != scores["bf16"]
    assert answered == pytest.approx(scores[precision], abs=1e-7)
