"""The benchmark's peer, `transformers.generate` with a trie function on the same weights, finds what we find."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import bench_decoding as bench
from generate_peer import Peer
from support.generators import make_catalogue, make_generator, make_queries

from onevision.decoding.beam import beam_search
from onevision.generator.prompts import PromptBuilder
from onevision.semantic_ids.trie import Trie


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shared", [False, True])
@torch.inference_mode()
def test_generate_with_a_trie_function_finds_the_same_ids(seed: int, shared: bool) -> None:
    catalogue, quantizer = make_catalogue(items=60, seed=seed)
    model = make_generator(quantizer, seed)
    prompt = PromptBuilder(model.config, catalogue).build(make_queries(catalogue, seed=seed))
    peer = Peer(model, shared=shared)
    peer.build_trie(catalogue.codes)
    codes, scores = peer.search(prompt, 5)
    beams = beam_search(model, model.read(prompt), catalogue.trie, 5)
    assert beams.codes.tolist() == codes.tolist()
    torch.testing.assert_close(beams.scores, scores, atol=1e-5, rtol=1e-5)
    allowed = torch.arange(catalogue.trie.leaves) % 3 > 0
    peer.build_trie(catalogue.trie.sids()[allowed.numpy()])
    codes, scores = peer.search(prompt, 5)
    beams = beam_search(model, model.read(prompt), catalogue.trie, 5, catalogue.trie.masks(allowed))
    assert beams.codes.tolist() == codes.tolist()
    torch.testing.assert_close(beams.scores, scores, atol=1e-5, rtol=1e-5)


def test_the_benchmarks_catalogue_has_an_id_for_every_item() -> None:
    sids = bench.make_sids(20_000)
    trie, _ = Trie.build(sids)
    assert trie.leaves == len(sids)
    assert (sids >= 0).all()
    assert (sids < [*bench.SIZES, bench.UNIQUE]).all()
