"""`onevision features ...`: the shared store of users' sequences. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

features_app = typer.Typer(
    help="Users' sequences in the shared store (FEATURE_STORE=production).", no_args_is_help=True
)


@features_app.command("publish")
def publish(features: Annotated[Path, typer.Argument(help="features artifact")]) -> None:
    """Fill the shared store (FEATURE_STORE=production) from a features artifact; servers then read it."""
    from onevision.features.shared import publish_features

    served = publish_features(features)
    print(f"servers read the features of {served.as_of}, artifact {served.features}")


@features_app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 for all of them")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 6566,
) -> None:
    """Serve the shared store over HTTP: Feast's feature server, reading only, always on the newest publication."""
    from onevision.features.repository import require_feast

    require_feast()
    from onevision.features.server import serve as run

    run(host=host, port=port)
