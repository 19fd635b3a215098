"""`onevision serve`: nothing heavy is imported before the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevision.errors import MissingDependencyError


def serve(
    bundle: Annotated[str | None, typer.Option(help="bundle to serve: a folder, or gs://bucket/prefix")] = None,
    store: Annotated[
        str | None, typer.Option(help="bundle store whose champion is served and followed, instead of a bundle")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="features artifact with the users' sequences: a folder, or gs://bucket/prefix")
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="snapshot that the search page takes pictures and users from, to try it out")
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option(help="evaluation artifact whose cascade can be asked beside the generator, to try it out"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 for all of them")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings, such as max_batch=16")
    ] = None,
) -> None:
    """Serve a bundle over HTTP: searches, a search page, the open inference protocol, and metrics."""
    try:
        from onevision.serving.server import Sources
        from onevision.serving.server import serve as run
        from onevision.serving.users import open_users
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client", "starlette", "httpcore2"):
            raise
        raise MissingDependencyError("serving needs a web server: pip install 'onevision[serving]'") from None
    from onevision.data.store import cached_download, is_remote
    from onevision.recipe import section_of
    from onevision.serving.config import ServingConfig

    config = section_of(ServingConfig, overrides or [])
    beside = None if cascade is None else cached_download(cascade) if is_remote(cascade) else Path(cascade)
    run(Sources(bundle, store, open_users(features), snapshot, beside), config, host=host, port=port)
