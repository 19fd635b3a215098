"""A user store for tests of the server."""

from __future__ import annotations

from datetime import UTC, datetime

from onevision.features.definitions import UserSequences


class KnownUsers:
    """A user store that knows ann."""

    as_of = datetime(2026, 1, 1, tzinfo=UTC)

    def sequences(self, user_id: str, at: datetime | None = None) -> UserSequences:
        ann = UserSequences(recent_clicked=["i003"], segment="regular")
        return ann if user_id == "ann" else UserSequences()
