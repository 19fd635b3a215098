"""Recipe sections of pruning under which every setting keeps the budget, in no time."""

from onevision.pruning.config import PruningConfig

EASY = PruningConfig(max_loss=1, max_department_loss=1, open_below=(2,), margins=(5,), masses=(0.5,), timed_queries=5)
