from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.generators import TOKENS, log_probability, make_catalogue, make_generator, make_queries

from onevision.attention_mass import keep_by_mass
from onevision.decoding.ranker import GeneratorRanker
from onevision.errors import ArtifactError
from onevision.generator.modelling import Generator
from onevision.generator.prompts import Prompt, PromptBuilder, Task
from onevision.generator.token_pruning import PruningSetting
from onevision.generator.training import sid_loss

CATALOGUE, QUANTIZER = make_catalogue()
MODEL = make_generator(QUANTIZER)
QUERIES = make_queries(CATALOGUE)
TARGET = torch.from_numpy(CATALOGUE.codes[:6].astype(np.int64))


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    return PromptBuilder(MODEL.config, CATALOGUE).build(QUERIES)


@torch.no_grad()
def scores(model: Generator, prompt: Prompt) -> torch.Tensor:
    return log_probability(model, model.read(prompt), TARGET[: len(prompt)])


def test_a_saved_generator_gives_the_same_probabilities(prompt: Prompt, tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    again = Generator.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(scores(again, prompt), scores(MODEL, prompt), rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.glob("*.bin"))


def test_a_prompts_probability_does_not_depend_on_its_batch(prompt: Prompt) -> None:
    alone = torch.cat(
        [
            log_probability(MODEL, MODEL.read(prompt.take(torch.tensor([n]))), TARGET[n : n + 1])
            for n in range(len(prompt))
        ]
    )
    torch.testing.assert_close(scores(MODEL, prompt), alone, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_code_by_code_equals_teacher_forcing(prompt: Prompt) -> None:
    memory = MODEL.read(prompt)
    code, past, rest, total = None, None, memory.point[:, None], torch.zeros(len(prompt))
    for level in range(TARGET.shape[1]):
        target = TARGET[:, level : level + 1]
        log_p, past = MODEL.step(memory, level, code, rest, past, target[..., None])
        code = target
        total += log_p[:, 0, 0]
        rest = MODEL.quantizer.advance(rest, level, code)
    torch.testing.assert_close(total, scores(MODEL, prompt), atol=2e-5, rtol=1e-5)


def test_the_whole_codebook_is_a_distribution_at_every_level(prompt: Prompt) -> None:
    for level, log_p in enumerate(MODEL(prompt, TARGET)[0]):
        assert log_p.shape == (6, MODEL.codebook_sizes[level])
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(6))


def test_history_and_profile_matter_until_they_are_hidden(prompt: Prompt) -> None:
    other = PromptBuilder(MODEL.config, CATALOGUE).build(QUERIES.with_histories_of(np.array([5, 4, 3, 2, 1, 0])))
    assert (scores(MODEL, prompt) - scores(MODEL, other)).abs().max() > 1e-3
    torch.testing.assert_close(scores(MODEL, prompt.without_user()), scores(MODEL, other.without_user()))
    one = prompt.without_user(torch.arange(6) == 2)
    assert torch.equal(one.history[3], prompt.history[3])
    assert (one.history[2] == -1).all()


def test_the_task_matters(prompt: Prompt) -> None:
    other = replace(prompt, task=torch.full((6,), int(Task.OWN_ID)))
    assert (scores(MODEL, prompt) - scores(MODEL, other)).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["category", "segment", "long_history", "history", "embedding", "tokens", "task"])
def test_every_field_of_the_prompt_is_read(prompt: Prompt, name: str) -> None:
    value = getattr(prompt, name).clone()
    if name == "segment":
        changed = (value + 1) % (len(MODEL.config.segments) + 1)
    elif name == "task":
        changed = 1 - value
    elif value.is_floating_point():
        changed = value.flip(-1)
    else:
        changed = torch.where(value >= 0, (value + 1) % 3, value)  # other codes where there were some
    assert not torch.equal(changed, value)
    before, after = (MODEL.read(p) for p in (prompt, replace(prompt, **{name: changed})))
    assert torch.equal(before.mask, after.mask)
    rows = (changed != value).flatten(1).any(1) if value.ndim > 1 else changed != value
    for old, new in zip(before.keys_values[0], after.keys_values[0], strict=True):
        difference = (old - new).abs().flatten(1).amax(1)
        assert (difference[rows] > 1e-4).all()
        assert (difference[~rows] < 1e-5).all()


@torch.no_grad()
def test_items_come_to_their_own_place_in_the_prompt(prompt: Prompt) -> None:
    """Clicked, searched and ordered items are told apart, and newer from older; the first token reads them all."""
    read = MODEL.read(prompt).category_logits[5]
    kinds = MODEL.read(replace(prompt, history=prompt.history.flip(1))).category_logits[5]
    times = MODEL.read(replace(prompt, history=prompt.history[:, :, [1, 0, 2, 3]])).category_logits[5]
    assert (read - kinds).abs().max() > 1e-5
    assert (read - times).abs().max() > 1e-5


def test_unknown_items_are_left_out_of_the_prompt_and_newest_come_first() -> None:
    queries = make_queries(CATALOGUE, 1)
    queries.recent_clicked = [["gone", "i003", "i001", "i002", "i004", "i005"]]
    prompt = PromptBuilder(MODEL.config, CATALOGUE).build(queries)
    expected = CATALOGUE.codes[[3, 1, 2, 4]].astype(np.int64)
    np.testing.assert_array_equal(prompt.history[0, 0].numpy(), expected)


def test_the_frozen_codebooks_get_no_gradient(prompt: Prompt) -> None:
    model = make_generator(QUANTIZER)
    before = {k: v.clone() for k, v in model.quantizer.state_dict().items()}
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    sid_loss(model(prompt, TARGET)[0], TARGET, torch.ones(6)).backward()
    optimizer.step()
    for name, value in model.quantizer.state_dict().items():
        assert torch.equal(value, before[name])


def test_weights_scale_a_samples_share_of_the_loss(prompt: Prompt) -> None:
    log_p = [level.detach() for level in MODEL(prompt, TARGET)[0]]
    each = torch.stack([sid_loss([v[n : n + 1] for v in log_p], TARGET[n : n + 1], torch.ones(1)) for n in range(6)])
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 3.0])
    torch.testing.assert_close(sid_loss(log_p, TARGET, weight), (each * weight).sum() / weight.sum())


@torch.no_grad()
def test_keeping_all_tokens_changes_nothing_and_keeping_few_shortens_the_memory(prompt: Prompt) -> None:
    whole = MODEL.read(prompt)
    kept_all = MODEL.read(prompt, lambda mass: keep_by_mass(mass, 1.0))
    torch.testing.assert_close(
        log_probability(MODEL, kept_all, TARGET), log_probability(MODEL, whole, TARGET), atol=2e-5, rtol=1e-5
    )
    assert PruningSetting().keep is None
    few = MODEL.read(prompt, PruningSetting(mass=0.2, min_tokens=1).keep)
    assert few.mask.shape[1] < whole.mask.shape[1]
    assert (few.kept < whole.kept).all()


def test_weights_that_were_cut_off_are_refused_by_name(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"model\.safetensors: not the weights of a generator"):
        Generator.from_pretrained(tmp_path)


@torch.no_grad()
def test_a_prompt_without_the_photos_own_id_is_a_token_shorter(prompt: Prompt) -> None:
    without = make_generator(QUANTIZER, own_id=False)
    assert without.read(prompt).mask.shape[1] == MODEL.read(prompt).mask.shape[1] - 1


@torch.no_grad()
def test_without_patch_tokens_the_photos_vector_stands_for_it(prompt: Prompt) -> None:
    without = make_generator(QUANTIZER, image_tokens=0)
    memory = without.read(prompt, PruningSetting(mass=0.5).keep)
    assert memory.mask.shape[1] == MODEL.read(prompt).mask.shape[1] - TOKENS
    assert (memory.kept == 0).all()
    other = replace(prompt, tokens=torch.randn_like(prompt.tokens.float()).half())
    torch.testing.assert_close(scores(without, other), scores(without, prompt))
    assert not torch.allclose(scores(MODEL, other), scores(MODEL, prompt))


def test_a_generator_that_knows_no_shoppers_finds_the_same_for_all_of_them() -> None:
    ranker = GeneratorRanker(make_generator(QUANTIZER, shopper=False), CATALOGUE)
    strangers = QUERIES.with_histories_of(np.arange(len(QUERIES))[::-1])
    np.testing.assert_array_equal(ranker.rank(QUERIES, 8, 10).items, ranker.rank(strangers, 8, 10).items)
    personal = GeneratorRanker(MODEL, CATALOGUE)
    assert (personal.rank(QUERIES, 8, 10).items != personal.rank(strangers, 8, 10).items).any()
