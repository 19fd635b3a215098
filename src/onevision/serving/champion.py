"""The bundle that answers, and following the champion of a bundle store without a dropped request.

A new champion is fetched, verified, loaded and warmed beside the one that answers, and takes its place in one
assignment. A request keeps the bundle that it began with; the old one goes when its last request does.
"""

from __future__ import annotations

import asyncio
import io
import logging
import shutil
import time
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from onevision.artifacts import Artifact, read_json
from onevision.data.store import cached_download, is_remote, join, read_pointer
from onevision.errors import ArtifactError, OneVisionError
from onevision.features.definitions import UserSequences
from onevision.precision import Precision
from onevision.publishing.bundle import METRICS
from onevision.publishing.promotion import BUNDLES
from onevision.serving.search import Searcher
from onevision.serving.telemetry import Telemetry

log = logging.getLogger(__name__)


def load(place: str, batch: int, precision: Precision = "fp32") -> Searcher:
    """Open a bundle (a folder or gs://bucket/prefix) and answer a grey photo in batches of every size up to `batch`.

    oneDNN prepares its products anew for every shape and keeps what it prepared, some 16 MB for a size: a size that was
    never run would cost its first searches time, and the server memory, long after it said that it was ready. What the
    canary (`pruning.canary`) watches begins after that.

    Raises:
        ArtifactError: no whole bundle there.
    """
    bundle = cached_download(place) if is_remote(place) else Path(place)
    searcher = Searcher.open(bundle, precision=precision)
    photo = searcher.decode(_grey_photo())
    for count in range(1, batch + 1):
        searcher.rank(np.stack([photo] * count), [UserSequences()] * count, 1, watched=False)
    return searcher


class Champion:
    """Loads a bundle, and if it comes from a store, every champion after it.

    Attributes:
        searcher: what answers now; None until the first bundle is warm.

    Args:
        bundle: the bundle to serve, or None to follow `store`.
        store: folder or gs://bucket/prefix whose champion is served.
        batch: photos ranked in one pass at most; precision: of the generator's layers.
        evaluation: whose cascade answers as well; beside a champion of another catalogue it does not.
    """

    def __init__(
        self,
        bundle: str | None,
        store: str | None,
        *,
        batch: int,
        precision: Precision,
        telemetry: Telemetry,
        evaluation: Artifact | None = None,
    ) -> None:
        if (bundle is None) == (store is None):
            raise OneVisionError("give either a bundle, or a bundle store whose champion is to be served")
        if bundle is not None and not is_remote(bundle) and not Path(bundle).is_dir():
            raise ArtifactError(f"{bundle}: no such bundle")
        self._bundle = bundle
        self._store = store
        self._batch, self._precision = batch, precision
        self._telemetry = telemetry
        self.evaluation = evaluation
        self.searcher: Searcher | None = None

    async def follow(self, poll: float) -> None:
        """Load what is to be served; with a store, look again every `poll` seconds until cancelled.

        Raises:
            OneVisionError: the bundle that was named cannot be served. With a store that is logged, and tried again.
        """
        while True:
            try:
                await self.look()
            except OneVisionError as error:
                if self._store is None:
                    raise
                log.error("the champion cannot be served: %s", error)
            except Exception:
                if self._store is None:
                    raise
                log.exception("the champion cannot be served")
            if self._store is None:
                return
            await asyncio.sleep(poll)

    async def look(self) -> bool:
        """Load the champion if it is not the one that answers; whether something was loaded."""
        started = time.perf_counter()
        try:
            place, identity = await asyncio.to_thread(self._locate)
            if self.searcher is not None and identity in (None, self.searcher.bundle.identity):
                self._telemetry.checked.set(time.time())
                return False
            searcher = await asyncio.to_thread(self._load, place)
            if identity is not None and searcher.bundle.identity != identity:
                raise ArtifactError(f"{place}: holds bundle {searcher.bundle.identity}, its pointer says {identity}")
        except Exception:
            self._telemetry.reloads.labels("failed").inc()
            raise
        old, self.searcher = self.searcher, searcher
        self._telemetry.reloads.labels("loaded").inc()
        self._telemetry.checked.set(time.time())
        metrics = read_json(searcher.bundle.file(METRICS))
        self._telemetry.serve_bundle(searcher.bundle.identity, searcher.bundle.generation, metrics)
        log.info("serving bundle %s, loaded in %.1f s", searcher.bundle.identity, time.perf_counter() - started)
        if old is not None and is_remote(place):
            shutil.rmtree(old.bundle.path, ignore_errors=True)  # its copy in the cache; its weights are in memory
        return True

    def _load(self, place: str) -> Searcher:
        searcher = load(place, self._batch, self._precision)
        if self.evaluation is not None:
            try:
                searcher.use_cascade(self.evaluation)
            except ArtifactError as error:
                if self._store is None:
                    raise
                log.warning("the generator answers alone: %s", error)
        return searcher

    def _locate(self) -> tuple[str, str | None]:
        if self._store is None:
            return str(self._bundle), None
        pointer, _ = read_pointer(self._store)
        if pointer is None:
            raise ArtifactError(f"{self._store}: no champion yet; publish a bundle there")
        identity = pointer.get("bundle")
        if not isinstance(identity, str) or "/" in identity:
            raise ArtifactError(f"{self._store}: champion.json has no bundle's name under 'bundle': {identity!r}")
        if pointer.get("history"):
            self._telemetry.promoted.set(datetime.fromisoformat(pointer["history"][-1]["since"]).timestamp())
        return join(self._store, BUNDLES, identity), identity


def _grey_photo() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (256, 256), "grey").save(stream, "PNG")
    return stream.getvalue()
