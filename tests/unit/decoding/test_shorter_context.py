"""Tokens that leave the prompt, held to a search that computes everything and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.generators import TOKENS, make_catalogue, make_generator, make_queries
from torch import Tensor

from onevision.attention_mass import keep_by_mass
from onevision.decoding.beam import Beams, beam_search
from onevision.decoding.ranker import GeneratorRanker
from onevision.generator.layers import Attention
from onevision.generator.modelling import Generator
from onevision.generator.prompts import Prompt, PromptBuilder
from onevision.generator.token_pruning import PruningSetting

CATALOGUE, QUANTIZER = make_catalogue()
QUERIES = make_queries(CATALOGUE)
LEAVES = torch.from_numpy(CATALOGUE.trie.sids().astype(np.int64))
WIDTH = CATALOGUE.trie.leaves
SETTINGS = {
    "image": PruningSetting(mass=0.6),
    "histories": PruningSetting(prunable="history", mass=0.6),
    "both": PruningSetting(prunable="both", mass=0.6),
    "later": PruningSetting(decoder_mass=0.5),
    "both, and later": PruningSetting(prunable="both", mass=0.8, decoder_mass=0.5),
}


def weights(attention: Attention, x: Tensor, context: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (L, heads, S) of x (L, d) to what mask (L, S) leaves of a context (S, d), and values (heads, S, e)."""
    size = x.shape[1] // attention.heads
    query = attention.query(x)
    key, value = attention.key_value(context).chunk(2, -1)
    heads = [slice(h * size, (h + 1) * size) for h in range(attention.heads)]
    logits = torch.stack([query[:, h] @ key[:, h].T / size**0.5 for h in heads], 1)
    return logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1), torch.stack([value[:, h] for h in heads])


def attend(attention: Attention, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    weight, value = weights(attention, x, context, mask)
    return attention.output(torch.einsum("lhs,hse->lhe", weight, value).flatten(1))


@dataclass
class Context:
    """Tokens (S, d) of one prompt, which of them are attended to (S,), and places of those that may leave."""

    x: Tensor
    mask: Tensor
    places: list[int]

    def drop(self, mass: Tensor, share: float) -> Context:
        """Masked is what does not hold this share of the mass (S,); a token that stands for it comes behind."""
        keep = keep_by_mass(mass[self.places][None], share, 2)[0].tolist()
        dropped = [place for place, stays in zip(self.places, keep, strict=True) if not stays]
        kept = [place for place, stays in zip(self.places, keep, strict=True) if stays]
        if not dropped:
            return self
        merged = sum(mass[place] * self.x[place] for place in dropped) / sum(mass[place] for place in dropped)
        mask = torch.cat([self.mask, torch.ones(1, dtype=torch.bool)])
        mask[dropped] = False
        return Context(torch.cat([self.x, merged[None]]), mask, [*kept, len(self.x)])


def read(model: Generator, prompt: Prompt, setting: PruningSetting) -> tuple[Context, int]:
    """What the encoder makes of one prompt, with everything computed; and how many tokens the histories keep."""
    front, patches, back, _ = model._embed(prompt)
    x = torch.cat([front, patches, back], 1)[0]
    first, last, end = front.shape[1], front.shape[1] + patches.shape[1], len(x)
    places = {"image": range(first, last), "history": range(last, end), "both": range(first, end)}[setting.prunable]
    context = Context(x, torch.ones(end, dtype=torch.bool), list(places))
    for number, layer in enumerate(model.encoder):
        if number == 1 and setting.mass < 1 and context.places:
            normed = layer.norm1(context.x)
            looked, _ = weights(layer.attention, normed[:1], normed, context.mask[None])
            context = context.drop(looked.mean(1)[0], setting.mass)
        mask = context.mask.expand(len(context.x), -1)
        normed = layer.norm1(context.x)
        context.x = context.x + attend(layer.attention, normed, normed, mask)
        context.x = context.x + layer.feedforward(layer.norm2(context.x))
    context.x = model.encoder_norm(context.x)
    return context, int(context.mask[last:end].sum())


def decode(model: Generator, context: Context, masks: Tensor, target: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """log pi of codes `target` (L,), position l attending to masks[l] (L, S); and how the first looks at it."""
    rests = model._rests(point, target[None])
    written = [table(target[n]) for n, table in enumerate(model.codes[:-1])]
    x = torch.stack([model.start, *written]) + model.decoder_position + model.unexplained(torch.cat(rests))
    looked = []
    for layer in model.decoder:
        normed = layer.norm1(x)
        x = x + attend(layer.self_attention, normed, normed, torch.ones(len(x), len(x)).tril().bool())
        looked.append(weights(layer.cross_attention, layer.norm2(x), context.x, masks)[0][0].mean(0))
        x = x + attend(layer.cross_attention, layer.norm2(x), context.x, masks)
        x = x + layer.feedforward(layer.norm3(x))
    x = model.decoder_norm(x)
    log_p = sum(model._score(x[n], rest[0], n)[target[n]] for n, rest in enumerate(rests))
    return log_p, torch.stack(looked).mean(0)


@torch.no_grad()
def reference(model: Generator, prompt: Prompt, setting: PruningSetting) -> tuple[Tensor, int, int, int]:
    """log pi of every leaf, and how many tokens: of the histories, and of the context of the first and last code."""
    context, histories = read(model, prompt, setting)
    levels = LEAVES.shape[1]
    masks = context.mask.expand(levels, -1)
    before = int(context.mask.sum())
    if setting.decoder_mass < 1:
        _, looked = decode(model, context, masks, LEAVES[0], prompt.embedding)
        shorter = context.drop(looked, setting.decoder_mass)
        none = torch.zeros(len(shorter.x) - len(context.x), dtype=torch.bool)
        masks = torch.stack([torch.cat([context.mask, none]), *[shorter.mask] * (levels - 1)])
        context = shorter
    log_p = torch.stack([decode(model, context, masks, leaf, prompt.embedding)[0] for leaf in LEAVES])
    return log_p, histories, before, int(context.mask.sum())


def search(model: Generator, prompt: Prompt, setting: PruningSetting, open_below: int | None = None) -> Beams:
    memory = model.read(prompt, setting.keep, setting.prunable)
    return beam_search(model, memory, CATALOGUE.trie, WIDTH, open_below=open_below, keep=setting.keep_later)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_a_compacted_context_is_one_that_is_computed_in_full_and_masked(name: str, frozen: bool) -> None:
    model, setting = make_generator(QUANTIZER), SETTINGS[name]
    prompt = PromptBuilder(model.config, CATALOGUE).build(QUERIES)
    expected = [reference(model, prompt.take(torch.tensor([row])), setting) for row in range(len(QUERIES))]
    model = model.freeze() if frozen else model
    memory, beams = model.read(prompt, setting.keep, setting.prunable), search(model, prompt, setting)
    for row, (log_p, histories, before, after) in enumerate(expected):
        by_leaf = beams.scores[row][beams.leaves[row].argsort()]
        torch.testing.assert_close(by_leaf, log_p, atol=1e-4, rtol=1e-5)
        assert int(memory.history[row]) == histories
        assert int(memory.mask[row].sum()) == before
        assert int(beams.context[row]) == after
    assert (memory.mask.shape[1] < model.read(prompt).mask.shape[1]) is (setting.mass < 1)
    whole = search(model, prompt, PruningSetting())
    assert (whole.leaves != beams.leaves).any()
    assert (beams.context < whole.context).any()


@pytest.mark.parametrize("frozen", [False, True])
@torch.no_grad()
def test_keys_and_values_of_what_leaves_are_gone(frozen: bool) -> None:
    model = make_generator(QUANTIZER)
    model = model.freeze() if frozen else model
    memory = model.read(PromptBuilder(model.config, CATALOGUE).build(QUERIES))
    shorter = memory.shorten(torch.rand(memory.mask.shape), lambda mass: keep_by_mass(mass, 1e-3, 2))
    columns = memory.mask.shape[1] - TOKENS + 2 + 1
    assert shorter.mask.shape[1] == columns
    assert shorter.prunable == slice(memory.prunable.start, memory.prunable.start + 3)
    for layer, before in zip(shorter.keys_values, memory.keys_values, strict=True):
        for value, whole in zip(layer, before, strict=True):
            assert value.shape == (*whole.shape[:2], columns, *whole.shape[3:])


@pytest.mark.parametrize("open_below", [None, 15])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_query_alone_is_answered_as_in_a_batch(name: str, open_below: int | None) -> None:
    ranker = GeneratorRanker(make_generator(QUANTIZER).freeze(), CATALOGUE)
    ranker.use_pruning(SETTINGS[name].model_copy(update={"open_below": open_below}))
    whole = ranker.rank(QUERIES, 2, 10)
    assert (1 in whole.steps) is (open_below is not None)
    assert whole.steps.max() > 1
    for row in range(len(QUERIES)):
        alone = ranker.rank(QUERIES.take(np.array([row])), 2, 10)
        np.testing.assert_array_equal(alone.items[0], whole.items[row])
        np.testing.assert_allclose(alone.scores[0], whole.scores[row], rtol=1e-5, atol=1e-6)
        for count in ("kept_tokens", "history_tokens", "context_tokens", "last_context", "steps"):
            assert getattr(alone, count)[0] == getattr(whole, count)[row], count


@pytest.mark.parametrize("prunable", ["image", "history", "both"])
@torch.no_grad()
def test_with_all_of_the_mass_nothing_is_lost(prunable: str) -> None:
    model = make_generator(QUANTIZER).freeze()
    prompt = PromptBuilder(model.config, CATALOGUE).build(QUERIES)
    whole = search(model, prompt, PruningSetting())
    setting = PruningSetting.model_validate({"prunable": prunable})
    assert setting.keep is None
    assert setting.keep_later is None
    assert torch.equal(search(model, prompt, setting).scores, whole.scores)

    def everything(mass: Tensor) -> Tensor:
        return torch.ones_like(mass, dtype=torch.bool)

    memory = model.read(prompt, everything, setting.prunable)
    kept = beam_search(model, memory, CATALOGUE.trie, WIDTH, keep=everything)
    assert torch.equal(kept.leaves, whole.leaves)
    torch.testing.assert_close(kept.scores, whole.scores, atol=1e-5, rtol=1e-6)
    assert torch.equal(kept.context, whole.context)
    assert memory.kept.tolist() == [TOKENS] * len(QUERIES)


@torch.no_grad()
def test_bfloat16_layers_lose_tokens_too() -> None:
    setting = PruningSetting(prunable="both", mass=0.8, decoder_mass=0.5)
    model, half = make_generator(QUANTIZER).freeze(), make_generator(QUANTIZER).freeze(torch.bfloat16)
    prompt = PromptBuilder(model.config, CATALOGUE).build(QUERIES)
    full, rounded = (search(m, prompt, setting) for m in (model, half))
    by_leaf, rounded_by_leaf = (b.scores.gather(1, b.leaves.argsort(1)) for b in (full, rounded))
    close = (rounded_by_leaf - by_leaf).abs().mean(1) < 0.15
    assert close.float().mean() > 0.5, "where rounding does not decide which tokens stay"
    assert (rounded.context < search(half, prompt, PruningSetting()).context).all()


@torch.no_grad()
def test_what_stops_after_a_code_keeps_its_context() -> None:
    model = make_generator(QUANTIZER)
    prompt = PromptBuilder(model.config, CATALOGUE).build(QUERIES)
    whole, later = (
        search(model, prompt, setting, open_below=WIDTH) for setting in (PruningSetting(), SETTINGS["later"])
    )
    assert later.steps.tolist() == [1] * len(QUERIES)
    assert torch.equal(later.scores, whole.scores)
    assert torch.equal(later.context, model.read(prompt).mask.sum(1))
