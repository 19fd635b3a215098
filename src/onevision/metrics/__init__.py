"""Measures of rankings and of semantic IDs, and how sure they are: pure numpy, used by every stage that reports one."""

from onevision.metrics.bootstrap import Interval, mean_gaps, mean_interval, mean_intervals, paired_difference_interval
from onevision.metrics.encoding import (
    category_consistency,
    codebook_utilisation,
    collision_rate,
    dead_codes,
    encoding_metrics,
    gini,
    independent_coding_rate,
    largest_bucket,
    perplexity,
    prefix_ids,
    prefix_utilisation,
    separation,
    shared_prefix_length,
    view_consistency,
)
from onevision.metrics.ranking import first_rank, hit_rate, mrr, ndcg, recall

__all__ = [
    "Interval",
    "category_consistency",
    "codebook_utilisation",
    "collision_rate",
    "dead_codes",
    "encoding_metrics",
    "first_rank",
    "gini",
    "hit_rate",
    "independent_coding_rate",
    "largest_bucket",
    "mean_gaps",
    "mean_interval",
    "mean_intervals",
    "mrr",
    "ndcg",
    "paired_difference_interval",
    "perplexity",
    "prefix_ids",
    "prefix_utilisation",
    "recall",
    "separation",
    "shared_prefix_length",
    "view_consistency",
]
