"""What every key of `metrics.json` means. `docs/metrics.md` is written from here:

python -m onevision.evaluation.glossary > docs/metrics.md
"""

from __future__ import annotations

import re

SYSTEMS = {
    "dense": "exact nearest neighbours of the photo's embedding; an item's best catalogue view speaks for it",
    "cascade": "the dense search's nearest items, re-ranked by a trained personalised ranker (LambdaRank)",
    "generator_sft": "the generator after supervised training",
    "generator_aligned": "the generator after preference alignment",
    "generator_pruned": "the aligned generator with the calibrated pruning setting: **what is served and gated**",
    "generator_shuffled_history": "the aligned generator, each user given a stranger's history and profile: a control",
    "champion": "nightly refresh only: the bundle that is served now, with its own catalogue, pruning and beam width",
    "oracle_with_taste": "synthetic shop only: ranks by the shopper's true choice probability, a ceiling",
    "oracle_visual": "synthetic shop only: ranks by true attribute distance alone, the ceiling without taste",
}
SLICES = {
    "cold_item": "the photographed item (else the item clicked first) entered at or after the end of training",
    "warm_item": "all other queries",
    "cold_user": "the user had no event before the end of training",
    "warm_user": "all other queries",
    "personal": "the item clicked first is not the photographed one: look alone does not explain it",
    "not_personal": "all other queries",
    "head": "the item clicked first is one of the most clicked ones, which together hold half of the training clicks",
    "tail": "it is another one that entered before the end of training; cold items are in neither",
    "view:<view>": "by the kind of picture that was sent: `user_photo`, `video_frame`",
    "department:<id>": "by the department of the item clicked first",
}
GROUPS: dict[str, dict[str, str]] = {
    "Ranking, one number a system": {
        "<system>/hr@<k>": "HR: share of queries whose first clicked item is among the first k",
        "<system>/mrr@10": "MRR: mean of 1 / rank of the first clicked item, 0 beyond 10",
        "<system>/ndcg@10": "NDCG of the first clicked item alone; never above `hr@10`",
        "<system>/recall@<k>": "share of *all* clicked items that are among the first k, mean over queries",
        "<system>/order_ndcg@10": "NDCG over all clicked (gain 1) and ordered (gain 2) items",
        "<system>/sid_hr@<k>": "HR of semantic IDs: the first clicked item's ID is among the first k different IDs",
        "<system>/sid_mrr@10": "MRR of semantic IDs, by the rank of that ID among the different IDs",
        "<system>/sid_ndcg@10": "NDCG of semantic IDs",
        "<system>/invalid_rate": "generators: share of live beams that are no item's semantic ID; 0 by construction",
    },
    "Paired differences": {
        "<a>_minus_<b>/<metric>": "mean of a's minus b's value over the same queries",
        "<a>_minus_<b>/<metric>/low": "lower bound of its 95 % interval (percentile bootstrap over queries)",
        "<a>_minus_<b>/<metric>/high": "upper bound",
    },
    "Beside the champion (nightly refresh)": {
        "generator_pruned_minus_champion/known/<metric>": "over queries whose answer it knows, new items left out",
        "generator_pruned_minus_champion/known/<metric>/low": "lower bound of its 95 % interval",
        "generator_pruned_minus_champion/known/<metric>/high": "upper bound; below 0 the challenger is worse",
        "queries/champion_known": "queries whose first clicked item is in the champion's catalogue",
        "champion/items_moved": "items of the champion whose semantic ID is another one now; must be 0",
        "champion/items_new": "items that the champion does not know",
        "champion/items_gone": "items of the champion that the snapshot no longer has",
        "day/photos": "photos of the newest day whose product has a main picture",
        "day/vc@<l>": "P(a photo of the newest day and its product's main picture share a prefix of l codes)",
    },
    "Slices": {
        "queries/<slice>": "queries in the slice; a slice without queries has no keys",
        "<system>/hr@<k>/<slice>": "HR@1, HR@10, HR@50 and HR@350 over the slice",
        "<system>/mrr@10/<slice>": "MRR@10 over the slice",
        "<system>/ndcg@10/<slice>": "NDCG@10 over the slice",
        "generator_pruned_minus_cascade/<metric>/<slice>": "over `personal`, `cold_item` and `warm_item`",
        "generator_pruned_minus_cascade/<metric>/<slice>/low": "lower bound of its 95 % interval",
        "generator_pruned_minus_cascade/<metric>/<slice>/high": "upper bound",
        "generator_pruned/<metric>/warm_item_minus_cold_item": "mean over warm items' queries less cold items'",
        "generator_pruned/<metric>/warm_item_minus_cold_item/low": "lower bound of its 95 % interval (two samples)",
        "generator_pruned/<metric>/warm_item_minus_cold_item/high": "upper bound",
    },
    "Retrieval of the photographed product": {
        "align/queries": "test queries whose photographed product is known",
        "align/r@<k>": "share of them whose own product is among the k nearest items (dense, best view)",
        "align/cold_queries": "those of products that entered at or after the end of training",
        "align/cold_r@<k>": "the same share over these",
        "tower_pruned/<retrieval>": "the same with photos as they are served, where looks or patches are left out",
        "align/<split>/r@<k>": "the same by stage `align`; `<split>_cold` for items never trained on",
        "align/<split>/clicked_r@<k>": "share of searches whose first clicked item is among the k nearest to the photo",
        "align/<split>/family_r@10": "synthetic shop: share of look-alikes among the 10 nearest to a photo",
    },
    "Semantic codes, from the quantizer (`vrq_at_training`: what a refresh's codebooks had at their full training)": {
        "<quantizer>/icr": "independent coding rate: items that are alone on their semantic ID / items",
        "<quantizer>/collision_rate": "(items - distinct semantic IDs) / items",
        "<quantizer>/largest_bucket": "items on the most crowded semantic ID",
        "<quantizer>/separation": "share of items whose semantic ID no other item of their category has",
        "<quantizer>/cur@<l>": "codebook utilisation: codes in use at level l / codebook size",
        "<quantizer>/prefix_cur@<l>": "distinct prefixes of l codes / product of the first l codebook sizes",
        "<quantizer>/gini@<l>": "Gini coefficient of how often the codes of level l are used; 0 is even",
        "<quantizer>/perplexity@<l>": "exp of the entropy of their use: the number of codes really in use",
        "<quantizer>/prefix_perplexity@<l>": "the same of all prefixes of l codes",
        "<quantizer>/dead_codes@<l>": "codes of level l that no item uses",
        "<quantizer>/cc@<l>": "P(two items that share a prefix of l codes are of one category)",
        "<quantizer>/vc@<l>": "P(a held-out photo and its product's main picture share a prefix of l codes)",
        "<quantizer>/cold_vc@<l>": "the same for products that were never trained on",
    },
    "Only in the report (a clock is in no artifact)": {
        "<system>/latency_ms_p<q>": "percentile of one query's time at batch size 1, without the image tower",
        "image_tower/latency_ms_p<q>": "decoding and embedding one photo, which every system needs first",
        "image_tower_pruned/latency_ms_p<q>": "the same as it is served, where looks or patches are left out",
    },
}
"""Heading -> pattern of keys -> meaning."""
_PLACEHOLDERS = {
    "<system>": "|".join(SYSTEMS),
    "<a>": "|".join(SYSTEMS),
    "<b>": "|".join(SYSTEMS),
    "<quantizer>": "vrq|vrq_at_training|rq_kmeans",
    "<metric>": r"\w+@\d+",
    "<retrieval>": r"(?:cold_)?(?:queries|r@\d+)",
    "<k>": r"\d+",
    "<l>": r"\d+",
    "<q>": r"\d+",
    "<view>": r"\w+",
    "<id>": r".+",
}


def pattern(key: str) -> re.Pattern[str]:
    """Regular expression of a documented key."""
    slices = "|".join(_expand(name) for name in SLICES)
    return re.compile(_expand(key).replace(re.escape("<slice>"), f"(?:{slices})"))


def meanings(key: str) -> list[str]:
    """What is documented of a key of `metrics.json`; a key has one meaning."""
    return [text for group in GROUPS.values() for entry, text in group.items() if pattern(entry).fullmatch(key)]


def markdown() -> str:
    """The page `docs/metrics.md`."""
    parts = [
        "# Metrics\n",
        "What each key of `metrics.json` of an `evaluation` artifact means. Written by "
        "`python -m onevision.evaluation.glossary > docs/metrics.md`; a test compares the two and a run's keys.\n",
        "All systems rank **all** items of the snapshot's catalogue for the same queries: the newest test queries "
        "(`evaluation.max_queries`) with a click on an item of the catalogue. Values are shares of 1, not percent; "
        "the report shows every one with its 95 % bootstrap interval.\n",
    ]
    for heading, entries in GROUPS.items():
        parts.append(f"## {heading}\n\n{_table('key', entries)}")
        if heading.startswith("Ranking"):
            parts.append(f"Systems:\n\n{_table('system', SYSTEMS)}")
        if heading == "Slices":
            parts.append(f"Slices:\n\n{_table('slice', SLICES)}")
    return "\n".join(parts)


def _table(name: str, rows: dict[str, str]) -> str:
    lines = [f"| {name} | meaning |", "| --- | --- |", *(f"| `{key}` | {text} |" for key, text in rows.items())]
    return "\n".join(lines) + "\n"


def _expand(text: str) -> str:
    text = re.escape(text)
    for placeholder, expression in _PLACEHOLDERS.items():
        text = text.replace(re.escape(placeholder), f"(?:{expression})")
    return text


if __name__ == "__main__":
    print(markdown(), end="")
