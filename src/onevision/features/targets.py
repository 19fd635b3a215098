"""Where sequences are kept online: the target that FEATURE_STORE names, and its Feast configuration.

`local`, the default: every `features` artifact carries a SQLite store of its own. `production`: one Redis for all
servers and one SQL registry; their addresses hold passwords, so they come from the environment alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

import onevision
from onevision.errors import SettingError

VARIABLE = "FEATURE_STORE"
LOCAL, PRODUCTION = "local", "production"
CONFIGURATIONS = {LOCAL: "feature_store.yaml", PRODUCTION: "feature_store.production.yaml"}
"""Target -> its file in `feature_repo/`."""

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def definitions_folder() -> Path:
    """`feature_repo/`: inside the installed package, or at the root of a source checkout."""
    package = Path(onevision.__file__).parent
    packaged = package / "feature_repo"
    return packaged if packaged.is_dir() else package.parents[1] / "feature_repo"


def chosen_target() -> str:
    """The target that the environment names.

    Raises:
        SettingError: it names another one.
    """
    target = os.environ.get(VARIABLE) or LOCAL
    if target not in CONFIGURATIONS:
        raise SettingError(f"{VARIABLE}={target!r} is no target: {' or '.join(CONFIGURATIONS)} is right")
    return target


def configuration(target: str) -> dict[str, Any]:
    """Feast's configuration of a target, with its variables filled in.

    Raises:
        SettingError: a variable that it needs is not set.
    """
    path = definitions_folder() / CONFIGURATIONS[target]
    raw = yaml.safe_load(path.read_text())  # before it is filled in: a password may hold any character
    return {key: _filled(value, path.name) for key, value in raw.items()}


def _filled(value: Any, source: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(entry, source) for key, entry in value.items()}
    return _PLACEHOLDER.sub(lambda found: _variable(found[1], source), value) if isinstance(value, str) else value


def _variable(name: str, source: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise SettingError(f"the environment variable {name} is not set; feature_repo/{source} says what it holds")
    return value
