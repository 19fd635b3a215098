"""Submit a pipeline of this package to Kubeflow Pipelines and wait for its end.

    python -m pipelines.submit nightly_refresh --host http://ml-pipeline:8888 \
        'snapshot=gs://shop/snapshots/{date}' champion=gs://shop/bundles

The pipeline is compiled here, with the image in `$ONEVISION_IMAGE`, so that what runs is what this image holds. In an
argument `{date}` is the run's date. The exit code is 1 unless the run succeeds, so that a job fails with its run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from onevision.errors import OneVisionError
from pipelines.compile import compile_pipelines

EXPERIMENT = "onevision"
SERVICE_ACCOUNT = "onevision-pipeline"
SUCCEEDED = "SUCCEEDED"


def read_arguments(given: Sequence[str], known: dict[str, dict[str, Any]], day: date) -> dict[str, Any]:
    """Arguments of a run from `name=value` words; lists are JSON.

    Args:
        known: the pipeline's parameters, as its compiled form describes them.

    Raises:
        OneVisionError: a word that is no `name=value`, an unknown or missing name, or a list that is no JSON.
    """
    values: dict[str, Any] = {}
    for word in given:
        name, separator, value = word.partition("=")
        if not separator or name not in known:
            raise OneVisionError(f"{word!r}: write name=value; the pipeline takes {', '.join(known)}")
        value = value.replace("{date}", day.isoformat())
        values[name] = _as_list(name, value) if known[name]["parameterType"] == "LIST" else value
    missing = [name for name, entry in known.items() if name not in values and not entry.get("isOptional")]
    if missing:
        raise OneVisionError(f"the pipeline also needs {', '.join(missing)}")
    return values


def _as_list(name: str, value: str) -> list[Any]:
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise OneVisionError(f'{name}={value}: a list is wanted, such as ["1/2", "2/2"]')
    return found


def submit(
    client: Any, pipeline: str, given: Sequence[str], *, day: date, wait_hours: float, service_account: str
) -> str:
    """Compile and submit a pipeline, and wait for its end; the state that it ended in.

    Args:
        client: a `kfp.Client`.

    Raises:
        OneVisionError: no such pipeline, or wrong arguments; nothing was submitted.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {file.stem: file for file in compile_pipelines(Path(folder))}
        if pipeline not in files:
            raise OneVisionError(f"no pipeline {pipeline!r}; there are {', '.join(files)}")
        spec = next(yaml.safe_load_all(files[pipeline].read_text()))
        arguments = read_arguments(given, spec["root"]["inputDefinitions"]["parameters"], day)
        run = client.create_run_from_pipeline_package(
            str(files[pipeline]),
            arguments=arguments,
            run_name=f"{pipeline}-{day.isoformat()}",
            experiment_name=EXPERIMENT,
            service_account=service_account,
        )
    print(f"submitted {run.run_id} {arguments}", flush=True)
    return str(client.wait_for_run_completion(run.run_id, timeout=int(wait_hours * 3600), sleep_duration=30).state)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's words; options may stand between the arguments."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.submit", description="Submit a pipeline and wait.")
    parser.add_argument("pipeline")
    parser.add_argument("arguments", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--host", required=True, help="KFP's API server, such as http://ml-pipeline:8888")
    parser.add_argument("--date", type=date.fromisoformat, default=datetime.now(UTC).date(), help="by default today")
    parser.add_argument("--wait-hours", type=float, default=8.0)
    parser.add_argument("--service-account", default=SERVICE_ACCOUNT, help="that the tasks run as")
    return parser.parse_intermixed_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    import kfp

    asked = parse(words)
    try:
        state = submit(
            kfp.Client(host=asked.host),
            asked.pipeline,
            asked.arguments,
            day=asked.date,
            wait_hours=asked.wait_hours,
            service_account=asked.service_account,
        )
    except (OneVisionError, TimeoutError) as error:
        print(f"pipelines.submit: {error}", file=sys.stderr)
        return 1
    print(state)
    return 0 if state == SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
