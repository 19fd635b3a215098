"""Traces of searches for OpenTelemetry: a span a search, and within it one for each part of the work.

Off unless the environment names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`); `OTEL_SERVICE_NAME`, sampling and the
rest of OpenTelemetry's own variables hold as everywhere. A caller's `traceparent` header is gone on from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import Scope

from onevision import __version__
from onevision.errors import MissingDependencyError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SERVICE = "onevision-serving"
CLIENTS_MISTAKES = 500
"""Status codes below this one are no error of the server, and so of no span."""


class Tracing:
    """Opens spans, or nothing at all without a provider."""

    def __init__(self, provider: Any = None) -> None:
        """Trace to an `opentelemetry.sdk.trace.TracerProvider`."""
        self._provider = provider
        self._tracer = provider.get_tracer("onevision", __version__) if provider else None

    @classmethod
    def from_environment(cls) -> Tracing:
        """As the environment says; `MissingDependencyError` if it asks for traces that cannot be made."""
        if not os.environ.get(ENDPOINT):
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError:
            raise MissingDependencyError(f"{ENDPOINT} is set: pip install 'onevision[tracing]'") from None
        os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE)
        provider = TracerProvider(resource=Resource.create({"service.version": __version__}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A part of the work; an exception is recorded on it."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span(name):
            yield

    @contextmanager
    def request(self, scope: Scope) -> Iterator[dict[str, Any]]:
        """A search, going on from its `traceparent`; what the block puts into the dictionary becomes attributes.

        Probes and scrapes (`GET`) are not traced.
        """
        found: dict[str, Any] = {}
        if self._tracer is None or scope["method"] != "POST":
            yield found
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span(scope["method"], context=parent, kind=SpanKind.SERVER) as span:
            yield found
            span.update_name(f"{scope['method']} {found['http.route']}")
            span.set_attributes(found | {"http.request.method": scope["method"]})
            if found["http.response.status_code"] >= CLIENTS_MISTAKES:
                span.set_status(StatusCode.ERROR)

    def stop(self) -> None:
        """Send what has not been sent yet."""
        if self._provider is not None:
            self._provider.shutdown()
