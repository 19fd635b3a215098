"""The views: four sequences that expire and a profile that does not (docs/features.md says why)."""

from datetime import timedelta

import entities
import sources
from feast import FeatureView, Field, FileSource
from feast.types import Array, Int64, String

from onevision.features.definitions import (
    LONG_HISTORY,
    PROFILE,
    RECENT_CLICKED,
    RECENT_ORDERED,
    RECENT_SEARCHED,
    SEGMENT,
    Sequence,
    load_settings,
)

SETTINGS = load_settings(sources.FOLDER)


def sequence_view(sequence: Sequence, source: FileSource) -> FeatureView:
    return FeatureView(
        name=sequence.name,
        description=sequence.meaning,
        entities=[entities.user],
        ttl=sequence.life(SETTINGS),
        schema=[
            Field(name=sequence.name, dtype=Array(String), description="item ids, newest first"),
            Field(name=sequence.valid_from, dtype=Int64, description="holds from, microseconds since 1970 UTC"),
        ],
        source=source,
    )


recent_clicked = sequence_view(RECENT_CLICKED, sources.recent_clicked_source)
recent_searched = sequence_view(RECENT_SEARCHED, sources.recent_searched_source)
recent_ordered = sequence_view(RECENT_ORDERED, sources.recent_ordered_source)
long_history = sequence_view(LONG_HISTORY, sources.long_history_source)

profile = FeatureView(
    name=PROFILE,
    description="what the shop knows of the account",
    entities=[entities.user],
    ttl=timedelta(0),  # Feast's "never expires"
    schema=[Field(name=SEGMENT, dtype=String, description="a coarse profile; null if unknown")],
    source=sources.profile_source,
)
