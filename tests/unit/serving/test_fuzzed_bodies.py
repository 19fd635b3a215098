"""Bodies that Schemathesis makes from the server's own description, right and wrong ones (`make fuzz` for many).

The server is a process of its own, so that what is measured of its memory is the server's and not Schemathesis'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from support.servers import ServerProcess, server_process

ROUTES = ("/search", "/v2/models/onevision/infer")
LEAK_MB = 40
"""What the server may grow by under all bodies: two pictures of `max_pixels` decoded at a time, 16 MB each, and what
threads hold that start with the first bodies. Over ten thousand bodies that is 4 kB for each."""


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    words = ["--bundle", str(bundle), "max_body_mb=0.5", "max_pixels=4000000"]
    with server_process(tmp_path / "log", *words) as running:
        yield running


@pytest.mark.timeout(7200)
def test_no_fuzzed_body_is_the_servers_mistake(server: ServerProcess, pytestconfig: pytest.Config) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    examples = pytestconfig.getoption("--bodies") // (2 * len(ROUTES))
    answers: Counter[int] = Counter()
    wrong: list[str] = []
    threads, memory = server.process.num_threads(), server.memory_mb

    def check(case: Any) -> None:
        answer = case.call(base_url=server.url)
        answers[answer.status_code] += 1
        structured = answer.status_code == 200 or "error" in answer.json()
        if answer.status_code >= 500 or not structured or "Traceback" in answer.text:
            wrong.append(f"{case.as_curl_command()}: {answer.status_code} {answer.text[:200]}")

    for route in ROUTES:
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:

            @seed(20261121)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=schema[route]["POST"].as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                check(case)

            send()
    grown = server.memory_mb - memory
    print(f"{sum(answers.values())} bodies: {dict(sorted(answers.items()))}; the server grew by {grown:.0f} MB")
    assert wrong == []
    assert sum(answers.values()) >= 2 * len(ROUTES) * examples * 0.9
    assert len(answers) >= 3, "the bodies do not reach far"
    assert server.client.get("/v2/health/ready").status_code == 200
    assert server.metric("onevision_pending_photos") == 0
    assert server.process.num_threads() <= threads + 8
    assert grown < LEAK_MB
