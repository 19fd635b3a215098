"""Traces: a span a request with its parts within, on from the caller's, and none at all unless they are asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.servers import RunningServer

from onevision.errors import MissingDependencyError
from onevision.serving.tracing import ENDPOINT, Tracing

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Keeps what servers trace."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(Tracing, "from_environment", classmethod(lambda cls: cls(provider)))
    return kept


def test_a_search_is_a_span_with_its_parts_on_from_the_callers(
    exporter: InMemorySpanExporter, bundle: Path, photo: bytes, serve: Callable[..., RunningServer]
) -> None:
    server = serve(bundle=str(bundle))
    answer = server.client.post("/search", files={"image": photo}, headers={"traceparent": CALLER})
    assert answer.status_code == 200
    assert server.search(b"no picture").status_code == 400

    def of(name: str, trace: int) -> list[ReadableSpan]:
        return [span for span in exporter.get_finished_spans() if span.name == name and span.context.trace_id == trace]

    trace = int(CALLER.split("-")[1], 16)
    (request,) = of("POST /search", trace)
    assert request.parent is not None
    assert request.parent.span_id == int(CALLER.split("-")[2], 16)
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    for part in ("lookup", "decode", "rank"):
        (span,) = of(part, trace)
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time
    answered = [span for span in exporter.get_finished_spans() if span.name == "POST /search"]
    assert [(span.attributes or {})["http.response.status_code"] for span in answered] == [200, 400]
    assert StatusCode.ERROR not in [span.status.status_code for span in answered]
    assert "photo" not in str([span.attributes for span in exporter.get_finished_spans()])


def test_the_servers_own_mistake_is_an_error_of_the_span(exporter: InMemorySpanExporter) -> None:
    scope = {"method": "POST", "headers": [(b"traceparent", b"nonsense")]}
    with Tracing.from_environment().request(scope) as span:
        span |= {"http.route": "/search", "http.response.status_code": 503}
    (found,) = exporter.get_finished_spans()
    assert found.status.status_code is StatusCode.ERROR
    assert found.parent is None


def test_nothing_is_traced_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with Tracing.from_environment().request({}) as span, Tracing.from_environment().span("rank"):
        assert span == {}
    monkeypatch.setenv(ENDPOINT, "http://localhost:4318")
    with pytest.raises(MissingDependencyError, match="tracing"):
        Tracing.from_environment()
