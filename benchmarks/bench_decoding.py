"""Constrained beam search over a trie of semantic IDs, against `transformers.generate` with a trie function.

    make bench-decoding
    python benchmarks/bench_decoding.py [--items 1000000] [--beams 50] [--repeats 5] [--sweep] [--out FILE.json]

One generator of 9M parameters (4 + 4 layers, d = 256, 55 prompt tokens), random weights, codebooks of 4096/1024/512 and
a last code of 64 that makes IDs unique. The catalogue is random and skewed: some prefixes hold many items, most few.

The peer is the same model behind `generate(prefix_allowed_tokens_fn=...)`: `Peer` puts the codes of all levels into one
vocabulary, is an encoder-decoder with the cache of `transformers`, and finds the allowed codes in a dict of prefixes. A
second peer is helped: its beams get the context's keys and values ready. Both score one level and not the whole
vocabulary, and both sides must find the same IDs. One thread; CPU milliseconds a query, the best of several.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from cascade_peer import cascade_figures
from generate_peer import Peer
from torch import Tensor

from onevision.decoding import beam
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.generator.configuration import GeneratorConfig
from onevision.generator.modelling import Generator
from onevision.generator.prompts import Prompt
from onevision.packing import PackedLinear
from onevision.quantization.gemm import fast_matmul
from onevision.semantic_ids.trie import Trie

SIZES, UNIQUE, DIM = (4096, 1024, 512), 64, 256
SEED = 7


def make_generator(dropout: float = 0.1) -> Generator:
    torch.manual_seed(SEED)
    settings = {"dim": DIM, "codebook_sizes": list(SIZES), "opq_subspaces": 1, "opq_size": UNIQUE}
    layers: dict[str, Any] = {"encoder_layers": 4, "decoder_layers": 4, "d_model": 256, "feedforward": 1024}
    model = Generator(GeneratorConfig(**layers, dropout=dropout, categories=12, quantizer=settings))
    for level, _ in enumerate(SIZES):
        model.quantizer.codebook(level).normal_(std=DIM**-0.5 / 2**level)
    model.quantizer.opq_codebooks.normal_(std=DIM**-0.5 / 8)
    for pointer in cast(list[torch.nn.Linear], model.pointers):
        torch.nn.init.normal_(pointer.weight, std=0.02)
    return model


def make_sids(items: int) -> np.ndarray:
    """Semantic IDs (I, 4); beyond 64 items on three codes the rest share the last ID."""
    rng = np.random.default_rng(SEED)
    sids = np.empty((items, 4), np.int16)
    shift = np.zeros(items, np.int64)
    for level, size in enumerate(SIZES):
        sids[:, level] = (np.floor(size * rng.random(items) ** 2).astype(np.int64) + shift) % size
        shift = 37 * (shift + sids[:, level])
    key = np.ravel_multi_index(tuple(sids[:, :3].astype(np.int64).T), SIZES)
    order = np.argsort(key, kind="stable")
    new = np.r_[True, np.diff(key[order]) != 0]
    first = np.maximum.accumulate(np.where(new, np.arange(items), 0))
    sids[order, 3] = np.minimum(np.arange(items) - first, UNIQUE - 1)
    return sids


def make_prompt(model: Generator, sids: np.ndarray, count: int) -> Prompt:
    """Photos near items of the catalogue, and full histories."""
    rng = np.random.default_rng(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    def some(*shape: int) -> Tensor:
        return torch.from_numpy(sids[rng.integers(0, len(sids), shape)].astype(np.int64))

    config = model.config
    return Prompt(
        normal(count, config.image_tokens, config.token_dim).half(),
        torch.from_numpy(model.quantizer.decode(some(count).numpy())) + 0.3 * DIM**-0.5 * normal(count, DIM),
        normal(count, config.categories).softmax(1),
        some(count, 3, config.history_length),
        some(count, config.long_history_length),
        torch.zeros(count, dtype=torch.long),
        torch.ones(count, dtype=torch.long),
    )


def cpu_ms(run: Callable[[], Any], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return 1000 * min(taken)


def search(model: Generator, prompt: Prompt, trie: Trie, width: int) -> beam.Beams:
    with fast_matmul():
        return beam.beam_search(model, model.read(prompt), trie, width)


def split(model: Generator, prompt: Prompt, trie: Trie, width: int, repeats: int) -> dict[str, float]:
    """CPU ms a query of a whole search and of its parts."""
    spent = dict.fromkeys(("encoder", "decoder", "trie", "top-k"), 0.0)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.process_time()
            result = function(*arguments)
            spent[part] += time.process_time() - began
            return result

        return call

    best: dict[str, float] = {"total": float("inf")}
    for _ in range(repeats):
        spent = dict.fromkeys(spent, 0.0)
        with (
            mock.patch.object(model, "read", timed("encoder", model.read)),
            mock.patch.object(model, "step", timed("decoder", model.step)),
            mock.patch.object(trie, "children", timed("trie", trie.children)),
            mock.patch.object(beam, "best", timed("top-k", beam.best)),
        ):
            total = cpu_ms(lambda: search(model, prompt, trie, width), 1) / len(prompt)
        if total < best["total"]:
            parts = {part: 1000 * seconds / len(prompt) for part, seconds in spent.items()}
            best = {"total": total, **parts, "rest": total - sum(parts.values())}
    return best


def products(model: Generator, prompt: Prompt, trie: Trie, width: int, repeats: int) -> float:
    """CPU ms a query of a search's matrix products alone, done again one after the other with what they were given,
    which comes from memory, where a search may have it in its cache."""
    calls: list[Callable[[], Tensor]] = []

    def kept(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            calls.append(partial(product, *arguments))
            return product(*arguments)

        return call

    with (
        mock.patch.object(PackedLinear, "forward", kept(PackedLinear.forward)),
        mock.patch.object(torch, "baddbmm", kept(torch.baddbmm)),
    ):
        search(model, prompt, trie, width)
    with fast_matmul():
        return cpu_ms(lambda: [call() for call in calls], repeats) / len(prompt)


def trie_figures(sids: np.ndarray) -> tuple[Trie, dict[str, float]]:
    """The trie mapped from its file, what it costs to build and load, and its bytes an item."""
    began = time.process_time()
    trie = Trie.build(sids)[0]
    built = time.process_time() - began
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "trie.safetensors"
    trie.save(path)
    began = time.perf_counter()
    trie = Trie.load(path)
    loaded = time.perf_counter() - began
    size = sum(tensor.nbytes for tensor in (*trie.offsets, *trie.codes))
    figures = {"build_cpu_s": built, "load_s": loaded, "mb": size / 1e6, "bytes_an_item": size / len(sids)}
    folder.cleanup()  # the map outlives the name
    return trie, figures


def sweep(model: Generator, sids: np.ndarray, trie: Trie, width: int, repeats: int) -> dict[str, Any]:
    """By beams and by size of the catalogue, at batch 1; and what a cascade and the image tower cost."""
    prompt = make_prompt(model, sids, 1)
    by_beams = {
        str(beams): cpu_ms(partial(search, model, prompt, trie, beams), repeats) for beams in (10, 50, 100, 200, 512)
    }
    by_items = {}
    for items in (10_000, 100_000, 1_000_000, 10_000_000):
        other, figures = trie_figures(make_sids(items))
        figures["ms_a_query"] = cpu_ms(partial(search, model, prompt, other, width), repeats)
        by_items[str(items)] = figures
    cascade = {}
    for items in (10_000, 100_000, len(sids)):
        some = make_sids(items) if items < len(sids) else sids
        rng = np.random.default_rng(SEED)
        vectors = model.quantizer.decode(some) + np.float32(0.3 * DIM**-0.5) * rng.standard_normal(
            (items, DIM), np.float32
        )
        queries = vectors[rng.integers(0, items, 32)] + np.float32(0.1 * DIM**-0.5)
        cascade[str(items)] = cascade_figures(vectors, queries, cpu_ms)
    encoder = Encoder(EncoderConfig(tower="efficientnet-lite2"), ["one"]).freeze()
    photo = np.random.default_rng(SEED).integers(0, 256, (1, encoder.image_size, encoder.image_size, 3), np.uint8)
    tower = cpu_ms(lambda: encoder.embed(photo), repeats)
    print("bfloat16, batch 1, by beams:", {n: round(ms, 1) for n, ms in by_beams.items()})
    for title, table in (("trie", by_items), ("cascade", cascade)):
        for name, row in table.items():
            print(f"{title:8}{int(name):>11,} items: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    print(f"image tower {tower:.1f} ms, in front of both")
    return {"by_beams": by_beams, "by_items": by_items, "cascade": cascade, "image_tower_ms": tower}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", action="store_true", help="also 10 to 512 beams, and 10k to 10M items")
    parser.add_argument("--out", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sids = make_sids(arguments.items)
    exact, half = make_generator().freeze(), make_generator().freeze(torch.bfloat16)
    peer = Peer(make_generator().eval())
    peer.build_trie(sids)
    trie, memory = trie_figures(sids)
    figures: dict[str, Any] = {"items": arguments.items, "beams": arguments.beams, "trie": memory, "batches": {}}
    width = arguments.beams
    print(f"{arguments.items:,} items, {width} beams; trie {memory['bytes_an_item']:.1f} bytes an item")
    print(f"{'CPU ms a query':32}{'total':>9}{'encoder':>9}{'decoder':>9}{'trie':>7}{'top-k':>7}{'rest':>7}")
    for batch in arguments.batches:
        prompt = make_prompt(exact, sids, batch)
        row: dict[str, Any] = {}
        for name, helped in (("transformers", False), ("transformers, helped", True)):
            peer.shared = helped
            codes, scores = peer.search(prompt, width)
            row[name] = cpu_ms(partial(peer.search, prompt, width), arguments.repeats if batch == 1 else 1) / batch
            print(f"{f'{name}, batch {batch}':32}{row[name]:9.1f}", flush=True)
        for name, model in (("float32", exact), ("bfloat16", half)):
            found = search(model, prompt, trie, width)
            same = [
                len({*map(tuple, a)} & {*map(tuple, b)}) / width
                for a, b in zip(found.codes.tolist(), codes.tolist(), strict=True)
            ]
            row[name] = split(model, prompt, trie, width, arguments.repeats)
            ratios = {peer_: row[peer_] / row[name]["total"] for peer_ in ("transformers", "transformers, helped")}
            row[name] |= {"ratios": ratios, "same": float(np.mean(same))}
            row[name]["products"] = products(model, prompt, trie, width, arguments.repeats)
            if name == "float32":
                row[name]["score_difference"] = float((found.scores - scores).abs().max())
            parts = [row[name][part] for part in ("total", "encoder", "decoder", "trie", "top-k", "rest")]
            line = "".join(f"{value:{9 if n < 3 else 7}.2f}" for n, value in enumerate(parts))
            times = ", ".join(f"{ratio:.1f}x" for ratio in ratios.values())
            alone = f"products alone {row[name]['products']:.2f}"
            print(f"{f'{name}, batch {batch}':32}{line}  {times}; {np.mean(same):.1%} the same; {alone}", flush=True)
        figures["batches"][str(batch)] = row
    if arguments.sweep:
        figures |= sweep(half, sids, trie, width, arguments.repeats)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
