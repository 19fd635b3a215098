"""What the server counts, in Prometheus' text format at /metrics. The alerts in `manifests/` read these names."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from onevision.serving.tracing import Tracing

disable_created_metrics()  # a second series for each, which nothing here reads

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
MEASURED = {"publishing": "vrq", "training": "vrq_at_training"}
"""When codebooks were measured -> the group of a bundle's metrics."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class Telemetry:
    """The metrics of one server, in a registry of their own, and its traces."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.tracing = tracing or Tracing()
        self._served: tuple[str, str] | None = None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "onevision_requests", "answers by route and status code", ["route", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "onevision_request_seconds",
            "time from a request's first byte to its answer",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.stage = Histogram(
            "onevision_stage_seconds",
            "time of the parts of a search: fetch, decode, lookup, queue, rank",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "onevision_batch_photos", "photos ranked in one pass", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.pending = Gauge("onevision_pending_photos", "photos in work or waiting", registry=self.registry)
        self.shed = Counter(
            "onevision_shed_requests", "requests answered 429, because too many were pending", registry=self.registry
        )
        self.lookups = Counter(
            "onevision_user_lookups",
            "user lookups by outcome: known, unknown, slow, busy, failed, off",
            ["outcome"],
            registry=self.registry,
        )
        self.empty = Counter("onevision_empty_answers", "searches that found no item", registry=self.registry)
        self.ready = Gauge("onevision_ready", "1 when a warm bundle answers", registry=self.registry)
        self.bundle = Gauge(
            "onevision_bundle_info", "1 for the bundle that answers", ["bundle", "generation"], registry=self.registry
        )
        self.reloads = Counter(
            "onevision_reloads",
            "looks at the champion that led to a load: loaded or failed",
            ["outcome"],
            registry=self.registry,
        )
        self.checked = Gauge(
            "onevision_champion_checked_timestamp_seconds",
            "when the served bundle was last known to be the champion",
            registry=self.registry,
        )
        self.promoted = Gauge(
            "onevision_champion_promoted_timestamp_seconds",
            "when the champion of the followed store became it",
            registry=self.registry,
        )
        self.codes = Gauge(
            "onevision_codebook_measure",
            "how far views agree on codes (vc@level), at the codebooks' training and when the bundle was published",
            ["measure", "at"],
            registry=self.registry,
        )
        self.features_as_of = Gauge(
            "onevision_features_as_of_timestamp_seconds", "the date of the users' sequences", registry=self.registry
        )

    def serve_bundle(self, identity: str, generation: str | None, metrics: Mapping[str, float] | None = None) -> None:
        """Say which bundle answers from now on, and what was measured of its codebooks (`Drift.metrics`)."""
        for at, group in MEASURED.items():
            for measure in ("vc@1", "vc@2"):
                value = (metrics or {}).get(f"{group}/{measure}")
                if value is not None:
                    self.codes.labels(measure, at).set(value)
        if self._served is not None:
            self.bundle.labels(*self._served).set(0)
        self._served = (identity, generation or "")
        self.bundle.labels(*self._served).set(1)
        self.ready.set(1)

    def text(self) -> bytes:
        """Every metric in Prometheus' text format."""
        return generate_latest(self.registry)
