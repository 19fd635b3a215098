"""Load for a server, by Locust in a process of its own: closed loop for saturation, open loop for latency."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np

SEED = 7
PATIENCE = 300.0
QUANTILES = (50, 95, 99)
EXPLAINED, UNEXPLAINED = "429 with Retry-After", "429 without Retry-After"
LOCUSTFILE = Path(__file__).with_name("serving_locustfile.py")


@dataclass
class Tally:
    """What a load met.

    Attributes:
        seconds: from the start of the load to its last answer.
        milliseconds: of every answer, from the moment at which its request should have been sent, in steps of 0.1.
        answers: by status code; 0 counts connections that broke.
        unexplained: 429s without a `Retry-After`.
        bundles: which bundles answered.
    """

    seconds: float
    milliseconds: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    unexplained: int = 0
    bundles: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        """Requests that got neither an answer nor a 429."""
        return sum(count for status, count in self.answers.items() if status not in (200, 429))

    def quantiles(self) -> dict[str, float]:
        """Milliseconds at p50, p95 and p99, of searches that were answered."""
        return {f"p{q}": float(np.percentile(self.milliseconds, q)) for q in QUANTILES}


def run_locust(url: str, photos: Path, system: str, *options: str) -> Tally:
    """One run of the locustfile, and what it met.

    Raises:
        subprocess.CalledProcessError: Locust did not run, or an answer is not of the form that a search has.
    """
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    quiet = ["--only-summary", "--skip-log-setup"]
    with tempfile.TemporaryDirectory(prefix="onevision-load-") as folder:
        out = Path(folder) / "statistics.json"
        about = ["--host", url, "--photos", str(photos), "--system", system, "--out", str(out)]
        subprocess.run([*command, *about, *quiet, *options], stdin=subprocess.DEVNULL, check=True)
        found = json.loads(out.read_text())
    tally = Tally(found["seconds"])
    for kind in found["searches"]:
        status, number = int(kind["method"]), kind["num_requests"]
        tally.answers[status] += number
        if status == 200:
            tally.bundles[kind["name"]] += number
            for milliseconds, times in kind["response_times"].items():
                tally.milliseconds += [float(milliseconds)] * times
        tally.unexplained += number * (kind["name"] == UNEXPLAINED)
    return tally


def saturation(url: str, photos: Path, clients: int, seconds: float, system: str = "generator") -> float:
    """Answers a second to clients that ask again as soon as they are answered; seconds are whole."""
    many = ["--users", str(clients), "--spawn-rate", str(clients), "--run-time", f"{ceil(seconds)}s"]
    tally = run_locust(url, photos, system, "ClosedLoop", *many, "--stop-timeout", f"{PATIENCE:.0f}")
    return tally.answers[200] / tally.seconds


def open_loop(url: str, photos: Path, rate: float, seconds: float, system: str = "generator") -> Tally:
    """Requests of a Poisson process of `rate` a second, sent whatever the server does (no coordinated omission)."""
    return run_locust(url, photos, system, "OpenLoop", "--rate", str(rate), "--seconds", str(seconds))
