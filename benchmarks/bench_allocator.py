"""What it saves a training to keep the memory that it frees: steps of the encoder, each way in a process of its own.

python benchmarks/bench_allocator.py RUN [--steps 25]

RUN is a run of `quickstart`, for its pictures and its recipe. One thread; CPU seconds and page faults a step.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from onevision.allocator import keep_freed_memory

WARM_STEPS, SIDES = 3, ("given back", "kept")


def run_side(run: Path, steps: int) -> None:
    """Train in this process, and print what a step costs."""
    import numpy as np
    import torch

    from onevision.data.images import load_pixels
    from onevision.data.snapshot import Snapshot
    from onevision.encoder.augmentation import draw_moves, move
    from onevision.encoder.config import EncoderConfig
    from onevision.encoder.infonce import info_nce
    from onevision.encoder.model import Encoder
    from onevision.encoder.muon import Muon
    from onevision.encoder.training import parameter_groups

    torch.set_num_threads(1)
    torch.manual_seed(7)
    rng, config, shop = np.random.default_rng(7), EncoderConfig(), Snapshot.open(run / "snapshot", verify=False)
    size = config.items_per_batch * config.views_per_item
    encoder = Encoder(config, ["one"]).train()
    pixels = torch.from_numpy(load_pixels(shop.images, shop.table("images")["image_id"].to_pylist()[:size], 64))
    product = torch.arange(size) // config.views_per_item
    affinity, unknown = (product[:, None] == product).float(), torch.full((size,), -1)
    optimizer = Muon(parameter_groups(encoder), weight_decay=config.weight_decay)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder.tower(move(pixels, torch.from_numpy(draw_moves(size, rng)))).pooled
        loss = info_nce(encoder.fuse(features, unknown)[0], affinity, encoder.scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(WARM_STEPS):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(f"{seconds / steps:.3f} CPU s, {(after.ru_minflt - before.ru_minflt) / steps:,.0f} page faults a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        if arguments.side == "kept":
            keep_freed_memory()
        run_side(arguments.run, arguments.steps)
        return
    for side in (*SIDES, *SIDES):
        print(f"{side:11}", end="", flush=True)
        command = [sys.executable, __file__, str(arguments.run), "--steps", str(arguments.steps), "--side", side]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
