"""`onevision encoding-report` and `onevision codebook-sizes`: nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevision.errors import OneVisionError
from onevision.report_output import show_tables


def encoding_report(
    embeddings: Annotated[Path | None, typer.Option(help="array (rows, dimensions), .npy or .safetensors")] = None,
    pairs: Annotated[Path | None, typer.Option(help="rows that show one product: .npy, .csv or .parquet")] = None,
    categories: Annotated[Path | None, typer.Option(help="one a row: .npy, .csv or .parquet")] = None,
    run: Annotated[Path | None, typer.Option(help="run folder, instead of files: its embeddings and recipe")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for metrics and page")] = None,
    sizes: Annotated[str, typer.Option(help="codebook sizes, such as 64,32,16; by default from the products")] = "",
    ablations: Annotated[
        bool, typer.Option("--ablations", help="also VRQ without each part that is on, and with each that is off")
    ] = False,
    validation: Annotated[
        bool, typer.Option("--validation", help="of a run: hold out a fifth of the training products, to choose by")
    ] = False,
    fits: Annotated[int, typer.Option(min=1, help="fit every method so often, and show means: one is a draw")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 7,
) -> None:
    """Compare semantic IDs of your own embeddings: k-means, RQ-VAE, OPQ, FSQ and VRQ."""
    from onevision.quantization.config import QuantizationConfig
    from onevision.quantization.encoding_inputs import read_encoding_data
    from onevision.quantization.encoding_report import default_config, encoding_report
    from onevision.quantization.encoding_run import run_encoding_data
    from onevision.runs import Run

    wanted = _sizes(sizes)
    if validation and run is None:
        raise typer.BadParameter("--validation is of a --run; with files a fifth of the products is held out anyway")
    if run is None and embeddings is not None:
        data = read_encoding_data(embeddings, pairs, categories, seed)
        config = default_config(data, wanted)
    elif run is not None and not (embeddings or pairs or categories):
        found = Run.open(run)
        artifacts = (found.artifact(stage) for stage in ("validate", "pair", "align"))
        data = run_encoding_data(*artifacts, validation_seed=seed if validation else None)
        config = QuantizationConfig(**found.settings.values["quantization"])
        config = config.model_copy(update={"codebook_sizes": wanted or config.codebook_sizes})
    else:
        raise typer.BadParameter("give either --embeddings, with --pairs and --categories if there are any, or --run")
    show_tables(encoding_report(data, config, out=out, ablations=ablations, fits=fits, seed=seed), out)


def codebook_sizes(
    items: Annotated[int, typer.Option(help="items of the catalogue", min=10, max=10**10)],
    target_icr: Annotated[float, typer.Option(help="share of items to be alone on their ID", min=0, max=1)] = 0.9,
) -> None:
    """Codebook sizes for a catalogue, and the collisions to expect of them."""
    from onevision.quantization.sizing import candidates, suggest

    chosen = suggest(items, target_icr)
    print(f"{'codebook sizes':<18}{'OPQ':>8}{'bits':>6}{'ICR':>8}{'collisions':>12}")
    for sizing in candidates(items):
        sizes, opq = ",".join(map(str, sizing.codebook_sizes)), f"2x{sizing.opq_size}" if sizing.opq_size else "none"
        figures = f"{sizing.bits:>6.0f}{sizing.icr:>8.1%}{sizing.collision_rate:>12.2%}"
        print(f"{sizes:<18}{opq:>8}{figures}{'  <- fewest bits' if sizing == chosen else ''}")
    if chosen is None:
        print(f"none of them is expected to reach {target_icr:.0%}: accept buckets, or align the encoder better")


def _sizes(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(size) for size in text.split(",")) if text else None
    except ValueError:
        raise OneVisionError(f"codebook sizes {text!r}: write them as 64,32,16") from None
