from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onevision.reporting.event_file import write_events

CURVES = {"loss": [(0, 3.5), (1, -2.25), (200, 0.0)], "validation/Trefferquote ü": [(1 << 40, 1e-30)]}


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    write_events(tmp_path / "training.tfevents", CURVES)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(CURVES)
    for name, curve in CURVES.items():
        found = events.Scalars(name)
        assert [event.step for event in found] == [step for step, _ in curve]
        assert [event.value for event in found] == pytest.approx([value for _, value in curve])


def test_the_same_curves_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.tfevents", "b.tfevents"):
        write_events(tmp_path / name, CURVES)
    assert (tmp_path / "a.tfevents").read_bytes() == (tmp_path / "b.tfevents").read_bytes()
