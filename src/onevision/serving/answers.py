"""What a search answers: hits, what the asker should know about them, and when nothing matches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onevision.errors import OneVisionError


@dataclass(frozen=True)
class Hit:
    """One item found.

    Attributes:
        score: log-probability that this shopper picks it among the items found, or of a cascade its ranker's score;
            what the hits are ordered by.
        click_probability: calibrated probability that it is clicked if it is shown; None of a bundle that holds no
            reward model, of a cascade, and under a filter: it is calibrated among what the whole shop offers.
        similarity: cosine of photo and item.
        history: by how much the shopper's history and profile make it likelier than for somebody nobody knows, as a
            difference of log-probabilities among the hits; 0 for the latter, None of a cascade.
        sid: its semantic ID.
    """

    item_id: str
    score: float
    click_probability: float | None
    similarity: float
    history: float | None
    sid: tuple[int, ...]
    category: str
    price: float
    title: str | None
    brand: str | None


@dataclass(frozen=True)
class Answer:
    """The items found for one photo, best first, what the asker should know about them, and the photo's own codes."""

    hits: list[Hit]
    notes: list[str]
    sid: tuple[int, ...]


def only_matches(answer: Answer, threshold: float) -> Answer:
    """The hits that are clicked with a probability of at least `threshold` if they are shown; where there is none, the
    answer says that nothing matches. Thresholds and what they cost are in the report of `align-preferences`.

    Raises:
        OneVisionError: a threshold that is no probability, or hits without one.
    """
    if not 0 <= threshold <= 1:
        raise OneVisionError(f"the threshold is {threshold}; give a probability, from 0 to 1")
    if any(hit.click_probability is None for hit in answer.hits):
        raise OneVisionError("this bundle's hits have no click probability; publish one with a newer library")
    hits = [hit for hit in answer.hits if (hit.click_probability or 0.0) >= threshold]
    notes = [] if hits else [f"no match: no item is clicked with a probability of {threshold:g} or more"]
    return replace(answer, hits=hits, notes=[*answer.notes, *notes])
