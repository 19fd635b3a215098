"""A store whose user is killed at one of its calls."""

from __future__ import annotations

from typing import Any

import pytest

from onevision.data import store
from onevision.publishing import promotion, retention

_OPEN = store.open_store


class KilledError(Exception):
    """Stands for the end of the process."""


class Flaky:
    """Counts the calls of a store and dies at one of them, before or after it took effect."""

    def __init__(self, at: int | None = None, after: bool = False) -> None:
        self.at, self.after, self.calls = at, after, 0

    def wrap(self, store: Any) -> Any:
        outer = self

        class Wrapped:
            root = store.root

            def __getattr__(self, name: str) -> Any:
                def call(*args: Any) -> Any:
                    outer.calls += 1
                    mine = outer.calls == outer.at
                    if mine and not outer.after:
                        raise KilledError
                    result = getattr(store, name)(*args)
                    if mine:
                        raise KilledError
                    return result

                return call

        return Wrapped()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (store, promotion, retention):
            monkeypatch.setattr(module, "open_store", lambda root: self.wrap(_OPEN(root)))
