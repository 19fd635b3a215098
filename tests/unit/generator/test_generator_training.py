import numpy as np
import torch
from support.generators import make_catalogue, make_generator, make_queries

from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.prompts import PromptBuilder, Task
from onevision.generator.samples import Samples, query_samples
from onevision.generator.training import GeneratorTrainer

CATALOGUE, QUANTIZER = make_catalogue()
CONFIG = GeneratorTrainingConfig(
    batch_size=8, steps_visual=4, steps_cooccurrence=2, steps_personal=4, check_every=2, learning_rate=1e-2
)


def make_trainer(answers: list[float], seed: int = 0, **changes: object) -> GeneratorTrainer:
    model = make_generator(QUANTIZER)
    queries = make_queries(CATALOGUE, 6)
    builder = PromptBuilder(model.config, CATALOGUE)
    clicks = query_samples(queries, builder, CATALOGUE, CONFIG)
    prompts = builder.pictures(queries.embedding, queries.category, queries.tokens)
    ones = np.ones(6, np.float32)
    pictures = Samples(prompts, np.arange(6), np.arange(6), ones, np.full(6, -1))
    sids = torch.from_numpy(CATALOGUE.codes.astype(np.int64))
    left = iter(answers)
    config = CONFIG.model_copy(update=changes)
    category = torch.zeros(len(sids), dtype=torch.long)
    torch.manual_seed(seed)
    return GeneratorTrainer(model, config, pictures, clicks, sids, category, lambda: next(left), seed)


def weights(trainer: GeneratorTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def test_the_best_check_is_kept_and_not_the_last() -> None:
    best = make_trainer([0.1, 0.5, 0.2, 0.3, 0.4])
    log = best.train()
    assert list(log.checks) == ["P 2", "P 4", "S1 2", "S2 2", "S2 4"]
    assert log.kept == "P 4"
    last = make_trainer([0.1, 0.2, 0.3, 0.4, 0.5])
    assert last.train().kept == "S2 4"
    assert not torch.equal(weights(best), weights(last))


def test_the_same_seed_trains_the_same_weights() -> None:
    trained = []
    for seed in (1, 1, 2):
        trainer = make_trainer([0.0] * 4 + [1.0], seed=seed)
        trainer.train()
        trained.append(weights(trainer))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_stage_s1_sees_no_user_and_s2_does() -> None:
    trainer = make_trainer([], replay_share=0.0, history_dropout=0.0)
    assert (trainer._batch("S1")[0].history == -1).all()
    assert (trainer._batch("S2")[0].history >= 0).any()


def test_replay_is_part_of_s1_and_s2_and_half_of_it_is_asked_for_clicks() -> None:
    trainer = make_trainer([], replay_share=0.5)
    prompt, item, weight = trainer._batch("S2")
    assert len(prompt) == len(item) == len(weight) == 8
    assert prompt.task.tolist().count(int(Task.OWN_ID)) == 2


def test_orders_weigh_more_than_clicks() -> None:
    queries = make_queries(CATALOGUE, 2)
    queries.clicked, queries.ordered = [["i001", "i002"], ["gone"]], [["i002"], []]
    samples = query_samples(queries, PromptBuilder(make_generator(QUANTIZER).config, CATALOGUE), CATALOGUE, CONFIG)
    assert samples.row.tolist() == [0, 0]
    assert samples.item.tolist() == [1, 2]
    assert samples.weight.tolist() == [1.0, CONFIG.order_weight]
