"""Searches for a running server, sent by Locust: as a Poisson process (open loop), or again at once (closed loop).

    locust -f benchmarks/serving_locustfile.py OpenLoop --headless --host URL --photos DIR --rate 90 --seconds 12
    locust -f benchmarks/serving_locustfile.py ClosedLoop --headless --host URL --photos DIR -u 24 -r 24 -t 12s

Locust's statistics tell searches apart by what they met: the type is the status, 0 where a connection broke, and the
name is the bundle that answered, or whether a 429 says when to come back. Times are of 0.1 ms, where Locust keeps two
digits by default.
"""

from __future__ import annotations

import json
import time
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, cast

import gevent
import locust.stats
import numpy as np
from gevent.pool import Group
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from serving_load import EXPLAINED, PATIENCE, SEED, UNEXPLAINED

cast(Any, locust.stats).bucket_response_time = lambda milliseconds: round(milliseconds, 1)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--photos", required=True, help="folder of pictures, sent in turn by name")
    parser.add_argument("--system", default="generator", help="generator or cascade")
    parser.add_argument("--rate", type=float, default=10.0, help="OpenLoop: requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="OpenLoop: time over which requests arrive")
    parser.add_argument("--out", help="file for the statistics, with all times")


@events.init.add_listener
def look_at_the_clock(**_: Any) -> None:
    """`--run-time` counts from gevent's last look, which was before all imports: seconds ago on a busy machine."""
    gevent.get_hub().loop.update_now()


@events.quitting.add_listener
def write(environment: Environment, **_: Any) -> None:
    """What was met is no failure of the run; an exception of ours is."""
    runner, options, stats = environment.runner, environment.parsed_options, environment.stats
    assert runner is not None
    assert options is not None
    environment.process_exit_code = int(bool(runner.exceptions))
    last = stats.total.last_request_timestamp
    if options.out and last is not None:
        searches = [entry.serialize() for entry in stats.entries.values()]
        Path(options.out).write_text(json.dumps({"seconds": last - stats.total.start_time, "searches": searches}))


@cache
def read_photos(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


class Shopper(FastHttpUser):
    """One that sends photos."""

    abstract = True
    network_timeout = connection_timeout = PATIENCE

    def on_start(self) -> None:
        self.photos = read_photos(self.environment.parsed_options.photos)
        self.form = {"system": self.environment.parsed_options.system}

    def search(self, number: int, due: float) -> None:
        """Send photo `number`; its time counts from `due`, of `time.perf_counter`."""
        files = {"image": ("photo", self.photos[number % len(self.photos)])}
        with self.client.post("/search", data=self.form, files=files, catch_response=True) as answer:
            met = answer.request_meta
            met["response_time"] = (time.perf_counter() - due) * 1e3
            met["request_type"] = str(answer.status_code)
            if answer.status_code == 200:
                met["name"] = json.loads(answer.content)["bundle"]
            elif answer.status_code == 429:
                met["name"] = EXPLAINED if "retry-after" in answer.headers else UNEXPLAINED


class OpenLoop(Shopper):
    """All shoppers in one: requests go out when they are due, whatever the server does (no coordinated omission)."""

    concurrency = 10_000  # connections, so that no request waits for one

    @task
    def arrive(self) -> None:
        options = self.environment.parsed_options
        requests = max(20, int(options.rate * options.seconds))
        arrivals = np.cumsum(np.random.default_rng(SEED).exponential(1 / options.rate, requests))
        searches = Group()
        begin = time.perf_counter()
        for number, due in enumerate((begin + arrivals).tolist()):
            gevent.sleep(max(0.0, due - time.perf_counter()))
            searches.spawn(self.search, number, due).link_exception(self.report)
        searches.join()
        self.environment.runner.quit()

    def report(self, search: gevent.Greenlet) -> None:
        """An exception of ours, which Locust hears of from its own greenlets alone."""
        error = search.exception
        self.environment.events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)


class ClosedLoop(Shopper):
    """A shopper who asks again as soon as they are answered."""

    numbers = count()

    @task
    def ask_again(self) -> None:
        self.search(next(self.numbers), time.perf_counter())
