"""`onevision features ...`: the shared store of users' sequences. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

features_app = typer.Typer(
    help="Users' sequences in the shared store (FEATURE_STORE=production).", no_args_is_help=True
)


@features_app.callback()
def _features() -> None:
    """Keep `publish` a command of its own: Typer drops the name of an only one."""


@features_app.command("publish")
def publish(features: Annotated[Path, typer.Argument(help="features artifact")]) -> None:
    """Fill the shared store (FEATURE_STORE=production) from a features artifact; servers then read it."""
    from onevision.features.shared import publish_features

    served = publish_features(features)
    print(f"servers read the features of {served.as_of}, artifact {served.features}")
