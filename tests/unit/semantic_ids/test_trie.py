import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision.errors import ArtifactError
from onevision.semantic_ids.trie import Trie

tables = st.integers(1, 4).flatmap(
    lambda length: st.lists(st.tuples(*[st.integers(0, 5)] * length), min_size=1, max_size=40)
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_children_are_exactly_the_codes_that_continue_a_prefix(rows: list[tuple[int, ...]]) -> None:
    sids = np.array(rows)
    trie, bucket = Trie.build(sids)
    prefixes = [sorted({row[:n] for row in rows}) for n in range(sids.shape[1] + 1)]
    for level in range(trie.length):
        nodes = torch.arange(len(prefixes[level]))
        children = trie.children(level, nodes)
        for node, prefix in enumerate(prefixes[level]):
            expected = [p for p in prefixes[level + 1] if p[:level] == prefix]
            valid = children.valid[node]
            assert children.codes[node][valid].tolist() == [p[-1] for p in expected]
            assert [prefixes[level + 1][n] for n in children.nodes[node][valid].tolist()] == expected
    assert [tuple(s) for s in trie.sids().tolist()] == prefixes[-1]
    assert [prefixes[-1][b] for b in bucket] == rows


def test_children_are_padded_to_the_widest_node_given_and_no_wider() -> None:
    trie, _ = Trie.build(np.array([[0, n] for n in range(9)] + [[1, 0], [2, 0], [2, 1]]))
    assert trie.children(1, torch.tensor([1, 2])).codes.shape == (2, 2)
    assert trie.children(1, torch.tensor([[0], [1]])).codes.shape == (2, 1, 9)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 2**32))
def test_a_node_is_open_if_one_of_its_leaves_is_allowed(rows: list[tuple[int, ...]], bits: int) -> None:
    sids = np.array(rows)
    trie, _ = Trie.build(sids)
    leaves = [tuple(s) for s in trie.sids().tolist()]
    allowed = [bool(bits >> (n % 33) & 1) for n in range(len(leaves))]
    masks = trie.masks(torch.tensor(allowed))
    for level, mask in enumerate(masks):
        prefixes = sorted({leaf[: level + 1] for leaf in leaves})
        open_ = {leaf[: level + 1] for leaf, ok in zip(leaves, allowed, strict=True) if ok}
        assert mask.tolist() == [prefix in open_ for prefix in prefixes]


def test_a_saved_trie_is_the_same(tmp_path: Path) -> None:
    trie, _ = Trie.build(np.random.default_rng(0).integers(0, 4, (30, 3)))
    trie.save(tmp_path / "trie.safetensors")
    again = Trie.load(tmp_path / "trie.safetensors")
    np.testing.assert_array_equal(trie.sids(), again.sids())
    (tmp_path / "trie.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="not a trie"):
        Trie.load(tmp_path / "trie.safetensors")


def test_an_empty_table_has_no_trie() -> None:
    with pytest.raises(ValueError, match="needs semantic IDs"):
        Trie.build(np.zeros((0, 3), int))


def test_leaf_ranges_hold_the_leaves_below_every_node() -> None:
    sids = np.random.default_rng(3).integers(0, 4, (50, 3))
    trie, _ = Trie.build(sids)
    distinct = trie.sids().tolist()
    for depth, bounds in enumerate(trie.leaf_ranges, 1):
        prefixes = sorted({tuple(sid[:depth]) for sid in distinct})
        assert len(bounds) == len(prefixes) + 1
        for node, prefix in enumerate(prefixes):
            below = [n for n, sid in enumerate(distinct) if tuple(sid[:depth]) == prefix]
            assert below == list(range(int(bounds[node]), int(bounds[node + 1])))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts resident pages")
def test_ten_million_leaves_are_mapped_and_not_read(tmp_path: Path) -> None:
    """1,000 nodes, 1,000 below each, 10 leaves below each of those: a file of 25 MB."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def offsets(nodes: int, children: int) -> torch.Tensor:
        return torch.arange(0, nodes * children + 1, children, dtype=torch.int32)

    def codes(nodes: int, children: int) -> torch.Tensor:
        return torch.arange(children, dtype=torch.int16).repeat(nodes)

    shape = ((1, 1000), (1000, 1000), (1_000_000, 10))
    trie = Trie([offsets(*level) for level in shape], [codes(*level) for level in shape])
    path = tmp_path / "trie.safetensors"
    trie.save(path)
    assert path.stat().st_size > 25e6
    before = resident()
    began = time.process_time()
    again = Trie.load(path)
    assert time.process_time() - began < 1
    assert again.leaves == 10_000_000
    assert resident() - before < 5e6
    nodes = torch.tensor([0, 7, 999_999])
    for found, expected in zip(again.children(2, nodes), trie.children(2, nodes), strict=True):
        assert torch.equal(found, expected)
    assert again.children(2, nodes).nodes[2].tolist() == list(range(9_999_990, 10_000_000))
