import pytest
import torch

from onevision.schedule import one_cycle


@pytest.mark.parametrize("steps", [*range(25), 500, 5000])
def test_rates_rise_to_the_peak_and_fall_for_any_number_of_steps(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = one_cycle(optimizer, steps, most_rising=50)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(0 < rate <= 0.4 for rate in rates)
    peak = rates.index(max(rates)) if rates else 0
    assert peak <= max(50, 1)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if steps >= 10:
        assert max(rates) == pytest.approx(0.4, rel=0.05)
