"""The smoke pipeline inside the built images: `python -m images.smoke [--tag 0.1.0] [folder]`.

Every task of `full_training` is a container of the train image, and artifacts pass from one to the next. A pipeline
that must fail, fails. The serve image then answers a search with the bundle. Needs a Docker socket in `DOCKER_HOST`
(podman's will do) and the images of `make images`.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kfp import local
from PIL import Image

from images.containers import BARE, USER, exit_codes_count, run_to_its_end
from pipelines.compile import trace
from pipelines.full_training import full_training
from pipelines.local import without_retries

RECIPE = "smoke"
PORT = 8080
PATIENCE_S = 300
FORBIDDEN = ("pip", "pip3", "gcc", "cc", "make")


def train(client: Any, image: str, folder: Path) -> Path:
    """Run snapshot and pipeline in containers of `image`; the bundle."""
    snapshot, store = folder / "snapshot", folder / "store"
    os.umask(0)  # what KFP makes here is written to by another user there
    mount = {str(folder): {"bind": str(folder), "mode": "rw"}}
    make = ["onevision", "snapshot", "synthetic", "--recipe", RECIPE, "--out", str(snapshot)]
    if code := run_to_its_end(client, image, make, mount, network_mode="none", **BARE):
        sys.exit(f"{' '.join(make)}: exit code {code}")
    pipeline = trace(full_training, "local", image)
    local.init(local.DockerRunner(network_mode="none", **BARE), pipeline_root=str(folder))  # all that tasks see
    day = datetime.now(UTC).date().isoformat()
    given = {"run_date": day, "recipe": RECIPE, "bundle_store": str(store)}
    with exit_codes_count(), without_retries(pipeline):
        try:
            pipeline(snapshot=str(folder / "nowhere"), **given)
        except RuntimeError as error:
            print(f"a task that must fail did: {error}")
        else:
            sys.exit("a pipeline without a snapshot succeeded: exit codes of containers are lost")
        pipeline(snapshot=str(snapshot), **given)
    (bundle,) = folder.glob("*/publish/bundle")
    return bundle


@contextmanager
def serving(client: Any, image: str, bundle: Path) -> Iterator[str]:
    """The address of a serve container, ready; prints the seconds that it took."""
    began = time.perf_counter()
    container = client.containers.run(
        image=image,
        command=["serve", "--host=0.0.0.0", f"--port={PORT}", f"--bundle={bundle}"],
        volumes={str(bundle): {"bind": str(bundle), "mode": "ro"}},
        ports={f"{PORT}/tcp": ("127.0.0.1", None)},
        detach=True,
        **BARE,
    )
    try:
        url = ""
        while not url or not _answers(f"{url}/v2/health/ready"):
            container.reload()
            if container.status == "exited" or time.perf_counter() - began > PATIENCE_S:
                sys.exit(f"{image}: not ready\n{container.logs().decode()}")
            found = (container.ports or {}).get(f"{PORT}/tcp")
            url = f"http://127.0.0.1:{found[0]['HostPort']}" if found else ""
            time.sleep(0.1)
        print(f"{image}: ready {time.perf_counter() - began:.1f} s after its start")
        yield url
        container.stop(timeout=30)
        if code := container.wait()["StatusCode"]:
            sys.exit(f"{image}: ended with exit code {code} when told to stop")
    finally:
        container.remove(force=True)


def describe(client: Any, image: str) -> None:
    """Print size and labels of an image, and end if it holds what it must not, or lacks its list of parts."""
    found = client.images.get(image)
    config = found.attrs["Config"]
    labels = {key.rpartition(".")[2]: value for key, value in (config.get("Labels") or {}).items()}
    print(f"{image}: {found.attrs['Size'] / 1e9:.2f} GB, version {labels['version']}, commit {labels['revision'][:12]}")
    if config.get("User") != str(USER):
        sys.exit(f"{image}: runs as {config.get('User')!r}, not as {USER}")
    script = (
        f"for name in {' '.join(FORBIDDEN)}; do ! command -v $name || exit 1; done; ! python -m pip -V 2>/dev/null"
        " && python -c \"import json; print(len(json.load(open('/opt/python/sbom.cdx.json'))['components']), 'parts')\""
    )
    options: dict[str, Any] = BARE | {"entrypoint": ["sh", "-ec"], "network_mode": "none"}
    if run_to_its_end(client, image, [script], {}, **options):
        sys.exit(f"{image}: holds a compiler or an installer, or has no list of its parts")


def search(url: str) -> Any:
    """The server's answer to a photo of noise."""
    stream = io.BytesIO()
    Image.effect_noise((96, 96), 60).convert("RGB").save(stream, "JPEG")
    body = json.dumps({"image": base64.b64encode(stream.getvalue()).decode(), "k": 5}).encode()
    request = urllib.request.Request(f"{url}/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> None:
    """The command."""
    import docker

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="by default a temporary one")
    parser.add_argument("--tag", default="0.1.0")
    parser.add_argument(
        "--serve-only", type=Path, metavar="BUNDLE", help="start the serve image alone, with this bundle"
    )
    asked = parser.parse_args()
    train_image, serve_image = (f"localhost/onevision-{name}:{asked.tag}" for name in ("train", "serve"))
    client = docker.from_env(timeout=1200)
    with tempfile.TemporaryDirectory(prefix="onevision-smoke-", dir="/var/tmp") as scratch:
        folder = (asked.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        began = time.perf_counter()
        describe(client, serve_image)
        if asked.serve_only is None:
            describe(client, train_image)
            bundle = train(client, train_image, folder)
            print(f"the smoke pipeline took {time.perf_counter() - began:.0f} s in containers")
        with serving(client, serve_image, asked.serve_only or bundle) as url:
            print(f"{len(search(url)['hits'])} hits for a photo")


if __name__ == "__main__":
    main()
