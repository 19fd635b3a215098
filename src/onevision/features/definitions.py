"""The sequences, named once: the SQL that builds them, the Feast views and the readers all take them from here.

Nothing heavy is imported, so that the definitions cost nothing to a reader that only wants the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from onevision.artifacts import read_json
from onevision.features.config import FeaturesConfig

FEATURES_KIND = "features"
SERVICE = "user_sequences_v1"
"""The one feature service of training and serving; a change of meaning is a new version."""

USER_KEY = "user_id"
EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"
SETTINGS = "settings.json"
"""Beside the Feast files of an artifact: the `FeaturesConfig` that its sequences were built with."""
DAYS = "days.json"
"""Beside it: what the entries of each day were, so that the next snapshot computes only the days that changed."""


@dataclass(frozen=True)
class Sequence:
    """One list of item ids a user, newest first.

    Attributes:
        name: column, Feast view and Parquet source.
        events: table of `sequences.py` that it lists.
        length: key of `FeaturesConfig` that holds the greatest length.
        ttl: key of `FeaturesConfig` that holds its days of life.
        meaning: one line for the registry and the docs.
    """

    name: str
    events: str
    length: str
    ttl: str
    meaning: str

    @property
    def valid_from(self) -> str:
        """Feature with the microseconds since 1970 from which the list holds; the online TTL is computed from it."""
        return f"{self.name}_at"

    def life(self, config: FeaturesConfig) -> timedelta:
        """Time after its last change at which the list counts as empty."""
        return timedelta(days=getattr(config, self.ttl))

    def greatest_length(self, config: FeaturesConfig) -> int:
        """Items that the list holds at most."""
        return int(getattr(config, self.length))


RECENT_CLICKED = Sequence(
    "recent_clicked", "interactions", "recent_length", "intent_ttl_days", "items clicked, put in the cart or ordered"
)
RECENT_SEARCHED = Sequence(
    "recent_searched",
    "searches",
    "recent_length",
    "intent_ttl_days",
    "one item a search: the one in the photo if it is known, else the first one clicked",
)
RECENT_ORDERED = Sequence("recent_ordered", "orders", "recent_length", "order_ttl_days", "items ordered, every time")
LONG_HISTORY = Sequence(
    "long_history", "interactions", "long_length", "taste_ttl_days", "as recent_clicked, further back"
)

SEQUENCES = (RECENT_CLICKED, RECENT_SEARCHED, RECENT_ORDERED, LONG_HISTORY)

PROFILE = "profile"
SEGMENT = "segment"


@dataclass(frozen=True)
class UserSequences:
    """What is known of a user at a moment; item ids newest first, empty lists for a stranger."""

    recent_clicked: list[str] = field(default_factory=list)
    recent_searched: list[str] = field(default_factory=list)
    recent_ordered: list[str] = field(default_factory=list)
    long_history: list[str] = field(default_factory=list)
    segment: str | None = None


def source_file(folder: Path, name: str) -> Path:
    """Parquet source of a view in a Feast repository."""
    return folder / "data" / f"{name}.parquet"


def load_settings(folder: Path) -> FeaturesConfig:
    """The configuration that a Feast repository's data was built with; the defaults where there is none yet."""
    path = folder / SETTINGS
    return FeaturesConfig.model_validate(read_json(path)) if path.exists() else FeaturesConfig()
