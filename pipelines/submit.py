"""Submit a pipeline of this package to Kubeflow Pipelines and wait for its end (`onevision submit`).

The pipeline is compiled where it is submitted, so that what runs is what this installation holds. In an argument
`{date}` is the run's date.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from onevision.errors import OneVisionError
from onevision.recipe import load_recipe, recipe_names
from pipelines.compile import compile_pipeline

EXPERIMENT = "onevision"
ENDED_BADLY = ("FAILED", "CANCELED", "CANCELING", "SKIPPED")
DIGITS = 6
NEWEST = 100
POLL_S = 30
EXAMPLES = {"overrides": '["encoder.steps=3000"]', "shards": '["1/2", "2/2"]'}
"""Parameter that is a list -> how one is written."""


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


def _as_list(name: str, value: str) -> list[str]:
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise OneVisionError(f"{name}={value}: a JSON list of texts is wanted, such as '{name}={EXAMPLES[name]}'")
    return found


def check_recipe(name: str, overrides: Sequence[str]) -> None:
    """Check a recipe as the tasks will load it.

    Raises:
        OneVisionError: no packaged recipe of that name, or overrides that it does not take.
    """
    if name not in recipe_names():
        raise OneVisionError(
            f"recipe={name}: tasks know the packaged recipes alone, {', '.join(recipe_names())}; say what differs from "
            f"one of them, 'overrides={EXAMPLES['overrides']}'"
        )
    load_recipe(name, overrides)


def submit(
    host: str,
    pipeline: str,
    given: Sequence[str],
    *,
    day: date,
    wait_hours: float,
    service_account: str,
    **placement: Any,
) -> str:
    """Compile and submit a pipeline, and wait for its end; the state that it ended in.

    A run of the same pipeline, date and arguments that has not failed is waited for instead: submitting twice is safe.

    Args:
        host: KFP's API server; nobody asks it before all the rest is known to be right.
        placement: `target`, `image`, `nodes` and `scratch` of `compile_pipeline`.

    Raises:
        OneVisionError: no such pipeline, target, image or recipe, wrong arguments, or no API server at `host`; nothing
            was submitted.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = compile_pipeline(pipeline, Path(folder) / f"{pipeline}.yaml", **placement)
        spec = next(yaml.safe_load_all(package.read_text()))
        known = spec["root"]["inputDefinitions"]["parameters"]
        arguments = read_arguments(given, known, day)
        check_recipe(arguments.get("recipe", known["recipe"]["defaultValue"]), arguments.get("overrides", ()))
        client = connect(host)
        digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
        name = f"{pipeline}-{day.isoformat()}-{digest[:DIGITS]}"
        experiment = client.create_experiment(EXPERIMENT)  # or the one that is there
        run_id = _earlier(client, experiment.experiment_id, name)
        if run_id:
            print(f"{name}: {run_id} is there already", flush=True)
        else:
            run_id = client.create_run_from_pipeline_package(
                str(package),
                arguments=arguments,
                run_name=name,
                experiment_name=EXPERIMENT,
                service_account=service_account,
            ).run_id
            print(f"submitted {run_id} {arguments}", flush=True)
    try:
        return str(client.wait_for_run_completion(run_id, int(wait_hours * 3600), sleep_duration=POLL_S).state)
    except TimeoutError:
        raise OneVisionError(f"{name}: run {run_id} has not ended after {wait_hours:g} hours") from None


def connect(host: str) -> Any:
    """A client of KFP's API server.

    Raises:
        OneVisionError: it does not answer at `host`.
    """
    import kfp
    from urllib3.exceptions import HTTPError

    logging.disable()  # KFP logs a traceback an attempt
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return kfp.Client(host=host)
    except (HTTPError, TimeoutError) as error:
        raise OneVisionError(
            f"{host}: KFP's API server does not answer there ({getattr(error, 'reason', error)}); from outside the "
            "cluster: kubectl -n kubeflow port-forward service/ml-pipeline 8888:8888, and --host http://localhost:8888"
        ) from None
    finally:
        logging.disable(logging.NOTSET)


def _earlier(client: Any, experiment_id: str, name: str) -> str | None:
    """Id of a run of that name that goes on or succeeded, among the newest ones."""
    found = client.list_runs(experiment_id=experiment_id, page_size=NEWEST, sort_by="created_at desc").runs or []
    return next((run.run_id for run in found if run.display_name == name and run.state not in ENDED_BADLY), None)
