import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.generators import log_probability, make_catalogue, make_generator, make_queries

from onevision.decoding.beam import beam_search, best
from onevision.decoding.ranker import GeneratorRanker
from onevision.generator.prompts import PromptBuilder
from onevision.generator.token_pruning import PruningSetting
from onevision.semantic_ids.trie import Trie

CATALOGUE, QUANTIZER = make_catalogue()
QUERIES = make_queries(CATALOGUE)


@torch.inference_mode()
def exhaustive(model, memory, sids: np.ndarray) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """log pi of every semantic ID for every query, (B, leaves)."""
    targets = torch.from_numpy(sids)
    return torch.stack(
        [log_probability(model, memory, sid.expand(len(memory.mask), -1).contiguous()) for sid in targets],
        1,
    )


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_a_beam_as_wide_as_the_catalogue_equals_scoring_every_item(seed: int) -> None:
    catalogue, quantizer = make_catalogue(seed=seed)
    model = make_generator(quantizer, seed)
    queries = make_queries(catalogue, seed=seed)
    memory = model.read(PromptBuilder(model.config, catalogue).build(queries))
    beams = beam_search(model, memory, catalogue.trie, catalogue.trie.leaves)
    every = exhaustive(model, memory, catalogue.trie.sids())
    expected, order = every.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(beams.scores, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(every.gather(1, beams.leaves), expected, atol=1e-4, rtol=1e-4)
    assert (beams.leaves.sort(1).values == torch.arange(catalogue.trie.leaves)).all()
    np.testing.assert_array_equal(catalogue.trie.sids()[beams.leaves.numpy()], beams.codes.numpy())
    assert order.shape == beams.leaves.shape


def test_a_narrow_beam_equals_a_reference_search_in_plain_python() -> None:
    model = make_generator(QUANTIZER, 1)
    memory = model.read(PromptBuilder(model.config, CATALOGUE).build(QUERIES))
    beams = beam_search(model, memory, CATALOGUE.trie, 3)
    sids = [tuple(s) for s in CATALOGUE.trie.sids().tolist()]
    for q in range(len(QUERIES)):
        live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for level in range(len(sids[0])):
            candidates = []
            for score, prefix in live:
                target = torch.tensor([[*prefix, *[0] * (len(sids[0]) - level)]])
                one = memory.take(torch.tensor([q]))
                with torch.inference_mode():
                    log_p = model.next_codes(one, target)[level][0]
                allowed = {s[level] for s in sids if s[:level] == prefix}
                candidates += [(score + log_p[c].item(), (*prefix, c)) for c in allowed]
            live = sorted(candidates, key=lambda c: (-c[0], c[1]))[:3]
        assert beams.codes[q].tolist() == [list(s) for _, s in live]
        np.testing.assert_allclose(beams.scores[q].numpy(), [s for s, _ in live], atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_filtered_beam_equals_scoring_every_allowed_item(seed: int, share: float) -> None:
    catalogue, quantizer = make_catalogue(seed=seed)
    model = make_generator(quantizer, seed)
    memory = model.read(PromptBuilder(model.config, catalogue).build(make_queries(catalogue, seed=seed)))
    trie = catalogue.trie
    allowed = torch.from_numpy(np.random.default_rng(seed).random(trie.leaves) < share)
    beams = beam_search(model, memory, trie, trie.leaves, trie.masks(allowed))
    every = exhaustive(model, memory, trie.sids()).masked_fill(~allowed, -torch.inf)
    expected = every.sort(dim=1, descending=True).values
    found = beams.scores.shape[1]  # where few are allowed, there are fewer places than leaves
    torch.testing.assert_close(beams.scores, expected[:, :found], atol=1e-4, rtol=1e-4)
    assert (expected[:, found:] == -torch.inf).all()
    for leaves in beams.leaves:
        assert leaves[leaves >= 0].sort().values.tolist() == allowed.nonzero()[:, 0].tolist()


def test_beams_are_spent_on_allowed_leaves_only() -> None:
    """A narrow filter fills a narrow beam: what is not allowed takes no place from what is."""
    model = make_generator(QUANTIZER)
    memory = model.read(PromptBuilder(model.config, CATALOGUE).build(QUERIES))
    allowed = torch.zeros(CATALOGUE.trie.leaves, dtype=torch.bool)
    allowed[[3, 11, 20]] = True
    beams = beam_search(model, memory, CATALOGUE.trie, 3, CATALOGUE.trie.masks(allowed))
    assert beams.leaves.sort(1).values.tolist() == [[3, 11, 20]] * len(QUERIES)


def test_beams_beyond_the_catalogue_do_not_exist() -> None:
    model = make_generator(QUANTIZER)
    trie, _ = Trie.build(CATALOGUE.codes[:2])
    memory = model.read(PromptBuilder(model.config, CATALOGUE).build(QUERIES))
    beams = beam_search(model, memory, trie, 10)
    assert beams.leaves.shape[1] == trie.leaves


def test_dead_beams_stay_dead() -> None:
    """Where prefixes are of unequal width a query has fewer live beams; the rest is marked, not opened."""
    model = make_generator(QUANTIZER)
    trie, _ = Trie.build(np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]))
    memory = model.read(PromptBuilder(model.config, CATALOGUE).build(QUERIES))
    beams = beam_search(model, memory, trie, 3)
    live = beams.leaves >= 0
    assert (beams.scores[live] > -torch.inf).all()
    assert (beams.scores[~live] == -torch.inf).all()
    assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in beams.leaves)


def test_equal_scores_go_to_the_smaller_leaf() -> None:
    model = make_generator(QUANTIZER)
    with torch.no_grad():
        for mixing in model.mixing:
            mixing.weight.zero_()
            mixing.bias.zero_()
        model.log_look.fill_(-torch.inf)  # every code is as likely as any other
        model.log_taste.fill_(-torch.inf)
    memory = model.read(PromptBuilder(model.config, CATALOGUE).build(QUERIES))
    beams = beam_search(model, memory, CATALOGUE.trie, 4)
    assert beams.leaves.tolist() == [[0, 1, 2, 3]] * len(QUERIES)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-torch.inf, -2.0, -1.0, 0.0]), min_size=7, max_size=7), min_size=1), st.data()
)
def test_the_best_columns_are_those_of_a_stable_sort(rows: list[list[float]], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 9))
    scores, columns = best(torch.tensor(rows), count)
    for row, found, chosen in zip(rows, scores.tolist(), columns.tolist(), strict=True):
        wanted = sorted(sorted(range(7), key=lambda n: (-row[n], n))[:count])
        assert found == [row[n] for n in chosen]
        assert [n for n in chosen if row[n] > -torch.inf] == [n for n in wanted if row[n] > -torch.inf]
        assert len(set(chosen)) == len(wanted)


def test_where_nothing_is_allowed_every_beam_dies() -> None:
    model = make_generator(QUANTIZER)
    memory = model.read(PromptBuilder(model.config, CATALOGUE).build(QUERIES))
    trie = CATALOGUE.trie
    beams = beam_search(model, memory, trie, 5, trie.masks(torch.zeros(trie.leaves, dtype=torch.bool)))
    assert (beams.leaves == -1).all()
    assert (beams.scores == -torch.inf).all()


def test_a_frozen_generator_finds_the_same() -> None:
    prompt = PromptBuilder(make_generator(QUANTIZER).config, CATALOGUE).build(QUERIES)
    width = CATALOGUE.trie.leaves
    plain, frozen = make_generator(QUANTIZER), make_generator(QUANTIZER).freeze()
    expected = beam_search(plain, plain.read(prompt), CATALOGUE.trie, width)
    found = beam_search(frozen, frozen.read(prompt), CATALOGUE.trie, width)
    assert found.leaves.tolist() == expected.leaves.tolist()
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-5)
    half = make_generator(QUANTIZER).freeze(torch.bfloat16)
    rounded = beam_search(half, half.read(prompt), CATALOGUE.trie, width)
    by_leaf, rounded_by_leaf = (b.scores.gather(1, b.leaves.argsort(1)) for b in (expected, rounded))
    torch.testing.assert_close(rounded_by_leaf, by_leaf, atol=0.3, rtol=0.03)
    assert not torch.equal(rounded_by_leaf, by_leaf)


@pytest.fixture(scope="module")
def ranker() -> GeneratorRanker:
    return GeneratorRanker(make_generator(QUANTIZER), CATALOGUE)


def test_buckets_open_in_order_of_similarity(ranker: GeneratorRanker) -> None:
    ranking = ranker.rank(QUERIES, CATALOGUE.trie.leaves, len(CATALOGUE.item_ids))
    assert ranking.invalid_rate == 0
    for q in range(len(QUERIES)):
        assert sorted(ranking.items[q]) == list(range(len(CATALOGUE.item_ids)))
        position = 0
        for leaf in ranking.leaves[q]:
            bucket = np.flatnonzero(CATALOGUE.bucket == leaf)
            found = ranking.items[q, position : position + len(bucket)]
            assert set(found) == set(bucket)
            similarity = CATALOGUE.embedding[found] @ QUERIES.embedding[q]
            assert (np.diff(similarity) <= 1e-6).all()
            position += len(bucket)


def test_fewer_items_than_asked_for_are_padded(ranker: GeneratorRanker) -> None:
    ranking = ranker.rank(QUERIES, 1, 30)
    sizes = np.bincount(CATALOGUE.bucket)[ranking.leaves[:, 0]]
    assert ((ranking.items >= 0).sum(1) == sizes).all()
    assert (ranking.scores[ranking.items < 0] == -np.inf).all()


@pytest.mark.parametrize("share", [None, 0.3])
def test_ranking_does_not_depend_on_the_batch(ranker: GeneratorRanker, share: float | None) -> None:
    count = len(CATALOGUE.item_ids)
    allowed = None if share is None else np.random.default_rng(0).random(count) < share
    whole = ranker.rank(QUERIES, 8, 10, allowed=allowed)
    for size in (1, 2, 4):
        for start in range(0, len(QUERIES), size):
            rows = np.arange(start, min(start + size, len(QUERIES)))
            part = ranker.rank(QUERIES.take(rows), 8, 10, allowed=allowed)
            np.testing.assert_array_equal(part.items, whole.items[rows])
            np.testing.assert_allclose(part.scores, whole.scores[rows], rtol=1e-5)


@pytest.mark.parametrize("open_below", [None, 30])
def test_a_code_that_is_no_item_would_be_counted_as_invalid(
    ranker: GeneratorRanker, monkeypatch: pytest.MonkeyPatch, open_below: int | None
) -> None:
    monkeypatch.setattr(ranker, "setting", PruningSetting(open_below=open_below))
    assert ranker.rank(QUERIES, CATALOGUE.trie.leaves, 5).invalid_rate == 0
    monkeypatch.setattr(ranker, "known_sids", ranker.known_sids[: len(ranker.known_sids) // 2])
    assert 0.3 < ranker.rank(QUERIES, CATALOGUE.trie.leaves, 5).invalid_rate < 0.7


def test_only_allowed_items_are_found_even_inside_a_shared_bucket(ranker: GeneratorRanker) -> None:
    shared = np.flatnonzero(np.bincount(CATALOGUE.bucket)[CATALOGUE.bucket] > 1)
    allowed = np.zeros(len(CATALOGUE.item_ids), bool)
    allowed[shared[0]] = allowed[5] = True
    ranking = ranker.rank(QUERIES, 8, 10, allowed=allowed)
    for items in ranking.items:
        assert set(items[items >= 0]) == {shared[0], 5}


def test_nothing_allowed_gives_an_empty_answer(ranker: GeneratorRanker) -> None:
    ranking = ranker.rank(QUERIES, 8, 10, allowed=np.zeros(len(CATALOGUE.item_ids), bool))
    assert (ranking.items == -1).all()
    assert (ranking.leaves == -1).all()
    assert ranking.invalid_rate == 0


def test_open_branches_hold_what_is_below_them_and_cost_fewer_steps(ranker: GeneratorRanker) -> None:
    memory = ranker.model.read(ranker.prompts.build(QUERIES))
    trie = CATALOGUE.trie
    sids = trie.sids().tolist()
    full = beam_search(ranker.model, memory, trie, 6)
    early = beam_search(ranker.model, memory, trie, 6, open_below=trie.leaves // 2)
    assert (early.steps < full.steps).all()
    plain = [
        beam_search(ranker.model, memory, Trie(trie.offsets[:n], trie.codes[:n]), 6) for n in range(1, trie.length)
    ]
    for row in range(len(QUERIES)):
        # the first depth at which six beams hold few enough leaves is where it stops
        for depth, beams in enumerate(plain, 1):
            prefixes = [tuple(codes) for codes in beams.codes[row][beams.leaves[row] >= 0].tolist()]
            below = [leaf for prefix in prefixes for leaf, sid in enumerate(sids) if tuple(sid[:depth]) == prefix]
            if len(below) <= trie.leaves // 2:
                break
        else:
            below = full.leaves[row].tolist()
            prefixes = [tuple(sids[leaf]) for leaf in below]
        found = early.leaves[row][early.leaves[row] >= 0].tolist()
        assert found == below
        unwritten = [-1] * (trie.length - len(prefixes[0]))
        assert early.codes[row][: len(prefixes)].tolist() == [[*prefix, *unwritten] for prefix in prefixes]
        assert (early.codes[row][len(prefixes) :] == -1).all()


@pytest.mark.parametrize("open_below", [8, 20, 1000])
def test_queries_that_stop_early_do_not_disturb_the_others(ranker: GeneratorRanker, open_below: int) -> None:
    memory = ranker.model.read(ranker.prompts.build(QUERIES))
    whole = beam_search(ranker.model, memory, CATALOGUE.trie, 5, open_below=open_below)
    for row in range(len(QUERIES)):
        one = beam_search(ranker.model, memory.take(torch.tensor([row])), CATALOGUE.trie, 5, open_below=open_below)
        live = one.leaves[0] >= 0
        torch.testing.assert_close(whole.leaves[row][: len(live)][live], one.leaves[0][live])
        torch.testing.assert_close(whole.scores[row][: len(live)][live], one.scores[0][live])
        assert (whole.leaves[row][len(live) :] == -1).all()
        assert whole.steps[row] == one.steps[0]


def test_open_branches_keep_a_filter(ranker: GeneratorRanker) -> None:
    allowed = np.arange(len(CATALOGUE.item_ids)) % 3 == 0
    ranker.use_pruning(PruningSetting(open_below=1000))
    try:
        found = ranker.rank(QUERIES, 5, 40, allowed=allowed).items
    finally:
        ranker.use_pruning(PruningSetting())
    assert (found >= 0).any(1).all()
    assert allowed[found[found >= 0]].all()


def test_beams_behind_the_margin_leave_and_the_others_go_on_as_if_they_had_never_been(ranker: GeneratorRanker) -> None:
    memory = ranker.model.read(ranker.prompts.build(QUERIES))
    trie, margin = CATALOGUE.trie, 1.0
    got = beam_search(ranker.model, memory, trie, 6, margin=margin)
    for row in range(len(QUERIES)):
        query = memory.take(torch.tensor([row]))
        live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        steps = 0
        for depth in range(1, trie.length + 1):
            steps += len(live)
            whole = beam_search(ranker.model, query, Trie(trie.offsets[:depth], trie.codes[:depth]), trie.leaves)
            written = whole.leaves[0] >= 0
            scored = dict(
                zip(map(tuple, whole.codes[0][written].tolist()), whole.scores[0][written].tolist(), strict=True)
            )
            parents = {codes for _, codes in live}
            children = sorted(((s, codes) for codes, s in scored.items() if codes[:-1] in parents), reverse=True)[:6]
            live = [c for c in children if depth == trie.length or c[0] >= children[0][0] - margin]
        there = got.leaves[row] >= 0
        assert [tuple(codes) for codes in got.codes[row][there].tolist()] == [codes for _, codes in live]
        torch.testing.assert_close(got.scores[row][there], torch.tensor([score for score, _ in live]))
        assert got.steps[row] == steps
    assert (got.steps < beam_search(ranker.model, memory, trie, 6).steps).any()


@pytest.mark.parametrize("open_below", [None, 10])
def test_a_margin_treats_every_query_of_a_batch_as_it_would_alone(
    ranker: GeneratorRanker, open_below: int | None
) -> None:
    memory = ranker.model.read(ranker.prompts.build(QUERIES))
    whole = beam_search(ranker.model, memory, CATALOGUE.trie, 5, open_below=open_below, margin=0.7)
    for row in range(len(QUERIES)):
        query = memory.take(torch.tensor([row]))
        one = beam_search(ranker.model, query, CATALOGUE.trie, 5, open_below=open_below, margin=0.7)
        there, alone = whole.leaves[row] >= 0, one.leaves[0] >= 0
        torch.testing.assert_close(whole.leaves[row][there], one.leaves[0][alone])
        torch.testing.assert_close(whole.scores[row][there], one.scores[0][alone])
        assert whole.steps[row] == one.steps[0]


def test_beams_that_were_given_up_are_not_computed(ranker: GeneratorRanker, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = ranker.model.read(ranker.prompts.build(QUERIES))
    widths: list[int] = []
    step = ranker.model.step

    def watched(memory: object, level: int, code: object, rest: torch.Tensor, *others: object) -> object:
        widths.append(rest.shape[1])
        return step(memory, level, code, rest, *others)

    monkeypatch.setattr(ranker.model, "step", watched)
    best_only = beam_search(ranker.model, memory, CATALOGUE.trie, 6, margin=1e-6)
    assert widths == [1] * CATALOGUE.trie.length
    assert (best_only.steps == CATALOGUE.trie.length).all()
