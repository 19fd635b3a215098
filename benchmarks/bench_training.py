"""Training of the generator (stage S2) against `transformers.Trainer`, and its share of the machine's matrix rate.

    make bench-training
    python benchmarks/bench_training.py [--batch 128] [--repeats 8] [--out FILE.json]

One generator of 9M parameters (4 + 4 layers, d = 256, codebooks 4096/1024/512 + 64), dropout 0.3. A batch is what S2
draws: 30 % searches with histories as long as those of the quickstart shop, three in ten of them hidden, and 70 %
pictures without any. The peer is the same model, with `torch.nn.Dropout`, in a `transformers.Trainer`: random batches
padded to their longest, its clipping and its AdamW; once in float32, once under bf16 autocast.
Both sides take the same batch at every step, compute the same loss and keep the memory that they free, as stages do.
One thread; CPU seconds, the best of several steps; the matrix rate is the best of before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from bench_decoding import make_generator, make_prompt, make_sids
from torch.utils.flop_counter import FlopCounterMode
from trainer_peer import trainer_figures

from onevision.allocator import keep_freed_memory
from onevision.distributed import Group
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.prompts import Prompt
from onevision.generator.samples import Samples
from onevision.generator.training import GeneratorTrainer
from onevision.quantization.gemm import fast_matmul

HISTORY, LONG_SHARE = (6.7, 4.6, 2.5), 0.9
"""Mean length of each history, and how many shoppers have a long one: quickstart's."""
SEED, ITEMS = 7, 20_000
PEER = "transformers.Trainer"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MICRO_BATCHES = 3
"""Two parts of a batch are pictures alone, then; the searches are in the third."""


def make_trainer(precision: str, micro_batches: int, batch: int) -> GeneratorTrainer:
    """A training of our loop on random pictures and searches."""
    sids = make_sids(ITEMS)
    model = make_generator(dropout=0.3)
    config = GeneratorTrainingConfig(
        batch_size=batch,
        micro_batches=micro_batches,
        precision=precision,
        token_dropout=0.0,
        steps_visual=0,
        steps_cooccurrence=0,
        steps_personal=1000,
    )
    rng = np.random.default_rng(SEED)
    searches, pictures = make_prompt(model, sids, 500), make_prompt(model, sids, 500).without_user()
    cut_histories(searches, rng)

    def samples(prompts: Prompt) -> Samples:
        rows = np.arange(len(prompts))
        return Samples(prompts, rows, rng.integers(0, ITEMS, len(rows)), np.ones(len(rows), np.float32), rows * 0 - 1)

    targets, category = torch.from_numpy(sids.astype(np.int64)), torch.from_numpy(rng.integers(0, 12, ITEMS))
    torch.manual_seed(SEED)
    alone = Group(0, 1, torch.device("cpu"))
    return GeneratorTrainer(
        model, config, samples(pictures), samples(searches), targets, category, lambda: 0.0, seed=SEED, group=alone
    )


def cut_histories(prompt: Prompt, rng: np.random.Generator) -> None:
    """Shorten full histories to random lengths."""
    longest = prompt.history.shape[2]
    lengths = np.minimum(rng.poisson(HISTORY, (len(prompt), len(HISTORY))), longest)
    prompt.history[torch.arange(longest) >= torch.from_numpy(lengths)[..., None]] = -1
    prompt.long_history[torch.from_numpy(rng.random(len(prompt)) > LONG_SHARE)] = -1


def cpu_seconds(step: Callable[[], Any], repeats: int, before: Callable[[], None] = lambda: None) -> float:
    """The best of several, after one; `before` each something is done that is not timed."""
    step()
    taken = []
    for _ in range(repeats):
        before()
        began = time.process_time()
        step()
        taken.append(time.process_time() - began)
    return min(taken)


def matrix_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of one large product, in float32 by oneDNN where it is faster."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    with fast_matmul():
        return 2 * size**3 / cpu_seconds(lambda: a @ b, 4)


def our_figures(trainer: GeneratorTrainer, repeats: int) -> tuple[float, int]:
    """CPU seconds of the best of several steps on one batch, and floating-point operations of one."""
    step = partial(trainer._step, "S2", 0.0)
    again = partial(setattr, trainer.rng.bit_generator, "state", trainer.rng.bit_generator.state)
    seconds = cpu_seconds(step, repeats, again)
    again()
    with FlopCounterMode(display=False) as counter:
        step()
    return seconds, counter.get_total_flops()


def tokens(trainer: GeneratorTrainer) -> tuple[int, int]:
    """Tokens of a batch that are real, and tokens that are read, padding included."""
    prompt = trainer._batch("S2")[0]
    fixed = 5 + trainer.model.config.image_tokens
    real = prompt.lengths() + fixed
    read = 0
    for rows in trainer._parts(prompt):
        part = prompt.take(rows)
        recent = (part.history[..., 0] >= 0).sum((1, 2)).max()
        read += len(rows) * int(fixed + recent + 4 * (part.long_history[:, 0, 0] >= 0).any())
    return int(real.sum()), read


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--out", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates = {precision: matrix_rate(dtype) for precision, dtype in DTYPES.items()}
    loops: dict[str, dict[str, float]] = {}
    sides = [(PEER, p, 1, trainer_figures) for p in rates] + [("ours", p, MICRO_BATCHES, our_figures) for p in rates]
    for name, precision, parts, figures_of in sides:
        make = partial(make_trainer, precision, parts, arguments.batch)
        seconds, operations = figures_of(make(), arguments.repeats)
        real, read = tokens(make())
        loops[f"{name}, {precision}"] = {
            "samples_a_second": arguments.batch / seconds,
            "real_tokens": real / read,
            "gflops": operations / seconds / 1e9,
        }
    rates = {precision: max(rate, matrix_rate(DTYPES[precision])) for precision, rate in rates.items()}
    print("one large product: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()))
    print(f"{'':28}{'samples/s':>10}{'real tokens':>13}{'GFLOP/s':>9}{'of matrix rate':>16}{'ratio':>7}")
    for title, row in loops.items():
        row["share"] = 1e9 * row["gflops"] / rates[title.split(", ")[1]]
        row["ratio"] = row["samples_a_second"] / loops[f"{PEER}, fp32"]["samples_a_second"]
        print(
            f"{title:28}{row['samples_a_second']:10.1f}{row['real_tokens']:13.0%}"
            f"{row['gflops']:9.0f}{row['share']:16.0%}{row['ratio']:6.1f}x"
        )
    figures = {"batch": arguments.batch, "matrix_gflops": {n: r / 1e9 for n, r in rates.items()}, "loops": loops}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
