"""An encoder that is frozen for search beside the same encoder as it was trained, in plain PyTorch.

python benchmarks/bench_tower.py [--repeats 10] [--json tower.json]

Random weights and pictures, all looks at a picture, one thread: CPU milliseconds a call of `Encoder.embed`, the best of
several, both sides in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder

BATCHES = {"small-conv": (1, 16, 256), "efficientnet-lite2": (1, 16)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for tower, batches in BATCHES.items():
        torch.manual_seed(7)
        plain = Encoder(EncoderConfig.model_validate({"tower": tower}), ["one", "two"]).eval()
        frozen = Encoder(plain.config, plain.categories)
        frozen.load_state_dict(plain.state_dict())
        sides = {"plain": plain, "frozen": frozen.freeze()}
        for batch in batches:
            shape = (batch, plain.image_size, plain.image_size, 3)
            pixels = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
            taken: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(arguments.repeats + 1):  # the first is to warm up
                for name, encoder in sides.items():
                    began = time.process_time()
                    encoder.embed(pixels)
                    taken[name].append(1000 * (time.process_time() - began))
            ms = {name: min(times[1:]) for name, times in taken.items()}
            ratio = ms["plain"] / ms["frozen"]
            rows.append({"tower": tower, "batch": batch, **ms, "ratio": ratio})
            print(
                f"{tower:20} batch {batch:4} plain {ms['plain']:8.2f} ms  frozen {ms['frozen']:8.2f} ms  {ratio:.1f}x"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
