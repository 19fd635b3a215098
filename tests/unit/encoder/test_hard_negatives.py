import numpy as np
import torch
import torch.nn.functional as F

from onevision.encoder.config import EncoderConfig
from onevision.encoder.hard_negatives import NEAREST, LookAlikes
from onevision.encoder.sampler import TrainingViews, batches


def test_a_look_alike_is_one_of_the_nearest_other_products() -> None:
    rng = np.random.default_rng(0)
    e = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    look_alikes = LookAlikes(40, 6, share=1.0)
    look_alikes.update(torch.arange(40), e)
    similarity = e @ e[7]
    nearest = [n for n in similarity.argsort(descending=True).tolist() if n != 7][:NEAREST]
    assert {look_alikes.draw(7, rng) for _ in range(200)} == set(nearest)


def test_a_product_stands_where_the_mean_of_its_last_views_is() -> None:
    look_alikes = LookAlikes(3, 2, share=1.0)
    look_alikes.update(torch.tensor([1, 1, 2]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    torch.testing.assert_close(look_alikes.last, torch.tensor([[0, 0], [0.5**0.5, 0.5**0.5], [0, 1]]))
    assert look_alikes.draw(0, np.random.default_rng(0)) is None


def test_look_alikes_come_into_one_batch() -> None:
    views = TrainingViews(
        [str(n) for n in range(20)], [np.array([2 * n, 2 * n + 1]) for n in range(20)], [np.array([], int)] * 20
    )
    config = EncoderConfig(items_per_batch=4, views_per_item=2)
    stream = batches(views, config, np.random.default_rng(0), look_alike=lambda n, rng: n ^ 1)
    for _ in range(10):
        product = set(next(stream).product.tolist())
        assert product == {n ^ 1 for n in product}
