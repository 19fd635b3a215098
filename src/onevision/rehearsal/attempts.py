"""One attempt at a night: the real command in a process of its own, watched, and perhaps killed."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENDED = re.compile(r"^night \S+: ([a-z ]+?)(?:, serving (\w+))?$", re.MULTILINE)
WARNED = re.compile(r"^[\w-]+: warning: (.*(?:full training advised|odd for this shop).*)$", re.MULTILINE)
RUN = re.compile(r"^run (\S+), detail in", re.MULTILINE)
_POLL = 0.05

Watch = Callable[[str], bool]
"""Called again and again with all that was printed so far; true ends the attempt with a kill."""


@dataclass(frozen=True)
class Attempt:
    """How one attempt ended.

    Attributes:
        outcome: as the night said it, or `killed`.
        cpu_seconds: of the command and its stages; of a killed attempt what was running is not in it.
        run: name of its run folder, "" if it got none.
    """

    outcome: str
    seconds: float
    cpu_seconds: float
    run: str
    why: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def attempt(arguments: Sequence[str], log: Path, watch: Watch | None = None) -> Attempt:
    """Run `onevision <arguments>` and read how it ended from what it printed.

    Args:
        log: takes all that the command prints.
        watch: may kill the command and every stage of it, or do harm meanwhile.
    """
    before, start = _child_seconds(), time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    killed = False
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "onevision", *arguments], stdout=output, stderr=subprocess.STDOUT, process_group=0
        )
        while process.poll() is None:
            if watch and not killed and watch(log.read_text(encoding="utf-8")):
                os.killpg(process.pid, signal.SIGKILL)
                killed = True
            time.sleep(_POLL)
    said = log.read_text(encoding="utf-8")
    return read_attempt(said, killed, round(time.monotonic() - start, 1), round(_child_seconds() - before, 1))


def began(stage: str, said: str) -> bool:
    """Whether a stage has begun."""
    return f"{stage}: started" in said


def some_time_after(stage: str, seconds: float) -> Watch:
    """Kills so many seconds after a stage has begun."""
    times: list[float] = []

    def kill(said: str) -> bool:
        if not times and began(stage, said):
            times.append(time.monotonic())
        return bool(times) and time.monotonic() - times[0] >= seconds

    return kill


def read_attempt(said: str, killed: bool, seconds: float, cpu_seconds: float) -> Attempt:
    """How an attempt ended, from all that it printed; one that was killed, or died without a word, says nothing."""
    run, ended = RUN.search(said), None if killed else ENDED.search(said)
    outcome = "killed" if killed else ended[1] if ended else "failed"
    why = said[ended.end() :].split("\nnext: ")[0].splitlines() if ended else []
    name = run[1] if run else ""
    return Attempt(outcome, seconds, cpu_seconds, name, [line for line in why if line], WARNED.findall(said))


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
