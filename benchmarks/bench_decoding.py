"""Constrained beam search over a trie of semantic IDs, against `transformers.generate` with a trie function.

    make bench-decoding
    python benchmarks/bench_decoding.py [--items 1000000] [--beams 50] [--repeats 5] [--sweep] [--out FILE.json]

One generator of 9M parameters (4 + 4 layers, d = 256, 55 prompt tokens), random weights, codebooks of 4096/1024/512 and
a last code of 64 that makes IDs unique. The catalogue is random and skewed: some prefixes hold many items, most few.

The peer is the same model behind `generate(prefix_allowed_tokens_fn=...)`: `Peer` puts the codes of all levels into one
vocabulary, keeps a `DynamicCache`, and finds the allowed codes in a dict of prefixes. It gets the prompt's keys and
values from the same encoder, expanded to its beams once and never reordered, which an encoder-decoder of `transformers`
would do at every step. Both sides must find the same IDs. One thread; CPU milliseconds a query, the best of several.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from onevision.decoding import beam
from onevision.generator.configuration import GeneratorConfig
from onevision.generator.modelling import Generator, Memory
from onevision.generator.prompts import Prompt
from onevision.quantization.gemm import fast_matmul
from onevision.semantic_ids.trie import Trie

SIZES, UNIQUE, DIM = (4096, 1024, 512), 64, 256
SEED = 7


def make_generator() -> Generator:
    torch.manual_seed(SEED)
    settings = {"dim": DIM, "codebook_sizes": list(SIZES), "opq_subspaces": 1, "opq_size": UNIQUE}
    layers = {"encoder_layers": 4, "decoder_layers": 4, "d_model": 256, "feedforward": 1024}
    model = Generator(GeneratorConfig(**layers, categories=12, quantizer=settings))
    for level, _ in enumerate(SIZES):
        model.quantizer.codebook(level).normal_(std=DIM**-0.5 / 2**level)
    model.quantizer.opq_codebooks.normal_(std=DIM**-0.5 / 8)
    for pointer in model.pointers:
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


class Peer(PreTrainedModel, GenerationMixin):
    """The same generator for `generate`: token 0 begins, then the codes of all levels one after the other."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, model: Generator) -> None:
        self.first = np.r_[1, 1 + np.cumsum(model.codebook_sizes)].tolist()
        super().__init__(PretrainedConfig(vocab_size=self.first[-1], num_hidden_layers=len(model.decoder)))
        self.model = model
        self.memory: Memory | None = None
        self.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=0)

    def build_trie(self, sids: np.ndarray) -> None:
        """A dict from written codes to the tokens that may follow."""
        self.allowed: dict[tuple[int, ...], list[int]] = {}
        tokens = Trie.build(sids)[0].sids() + np.array(self.first[:-1])
        change = np.zeros(len(tokens), bool)
        change[0] = True
        for level in range(tokens.shape[1]):
            parents = np.flatnonzero(change)
            change[1:] |= tokens[1:, level] != tokens[:-1, level]
            nodes = np.flatnonzero(change)
            codes = tokens[nodes, level].tolist()
            bounds = [*np.searchsorted(nodes, parents).tolist(), len(nodes)]
            prefixes = map(tuple, tokens[parents, :level].tolist())
            self.allowed |= {p: codes[a:b] for p, a, b in zip(prefixes, bounds[:-1], bounds[1:], strict=True)}

    def prepare_inputs_for_generation(self, input_ids: Tensor, past_key_values: Any = None, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids, "past_key_values": past_key_values}

    def forward(self, input_ids: Tensor, past_key_values: DynamicCache, **_: Any) -> CausalLMOutputWithPast:
        model, memory = self.model, self.memory
        assert memory is not None
        level = input_ids.shape[1] - 1
        if level == 0:
            self.expanded = memory.repeat(len(input_ids) // len(memory.mask))
        rest = self.expanded.point
        for before in range(level):
            rest = model.quantizer.advance(rest, before, input_ids[:, before + 1] - self.first[before])
        last = input_ids[:, -1] - self.first[max(0, level - 1)]
        x = model.start.expand(len(input_ids), -1) if level == 0 else model.codes[level - 1](last)
        x = (x + model.decoder_position[level] + model.unexplained(rest))[:, None]
        for number, layer in enumerate(model.decoder):
            normed = layer.norm1(x)
            pair = past_key_values.update(*layer.self_attention.keys_values(normed), number)
            attended = layer.self_attention(normed, pair)
            x = layer._rest(x + attended, self.expanded.keys_values[number], self.expanded.mask)
        logits = x.new_full((len(x), 1, self.first[-1]), -torch.inf)
        logits[:, 0, self.first[level] : self.first[level + 1]] = model._score(model.decoder_norm(x)[:, 0], rest, level)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def search(self, prompt: Prompt, width: int) -> tuple[Tensor, Tensor]:
        """Codes (B, W, L) and log-probabilities (B, W), best first."""
        self.memory = self.model.read(prompt)
        found = self.generate(
            torch.zeros(len(prompt), 1, dtype=torch.long),
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=len(self.first) - 1,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=lambda _, ids: self.allowed.get(tuple(ids[1:].tolist()), []),
            return_dict_in_generate=True,
            output_scores=True,
        )
        codes = found.sequences[:, 1:] - torch.tensor(self.first[:-1])
        return codes.view(len(prompt), width, -1), found.sequences_scores.view(len(prompt), width)


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
    print(f"{'CPU ms a query':24}{'total':>9}{'encoder':>9}{'decoder':>9}{'trie':>7}{'top-k':>7}{'rest':>7}")
    for batch in arguments.batches:
        prompt = make_prompt(exact, sids, batch)
        codes, scores = peer.search(prompt, width)
        row: dict[str, Any] = {"transformers": cpu_ms(lambda p=prompt: peer.search(p, width), 2) / batch}
        print(f"{f'transformers, batch {batch}':24}{row['transformers']:9.1f}", flush=True)
        for name, model in (("float32", exact), ("bfloat16", half)):
            found = search(model, prompt, trie, width)
            same = [
                len({*map(tuple, a)} & {*map(tuple, b)}) / width
                for a, b in zip(found.codes.tolist(), codes.tolist(), strict=True)
            ]
            row[name] = split(model, prompt, trie, width, arguments.repeats)
            row[name] |= {"ratio": row["transformers"] / row[name]["total"], "same": float(np.mean(same))}
            if name == "float32":
                row[name]["score_difference"] = float((found.scores - scores).abs().max())
            parts = [row[name][part] for part in ("total", "encoder", "decoder", "trie", "top-k", "rest")]
            line = "".join(f"{value:{9 if n < 3 else 7}.2f}" for n, value in enumerate(parts))
            print(f"{f'{name}, batch {batch}':24}{line}  {row[name]['ratio']:.1f}x, {np.mean(same):.1%} the same")
        figures["batches"][str(batch)] = row
    if arguments.sweep:
        prompt = make_prompt(exact, sids, 1)
        figures["by_beams"] = {
            str(beams): cpu_ms(lambda w=beams: search(half, prompt, trie, w), arguments.repeats)
            for beams in (10, 50, 100, 200, 512)
        }
        figures["by_items"] = {}
        for items in (10_000, 100_000, 1_000_000, 10_000_000):
            other, memory = trie_figures(make_sids(items))
            memory["ms_a_query"] = cpu_ms(lambda t=other: search(half, prompt, t, width), arguments.repeats)
            figures["by_items"][str(items)] = memory
        print("bfloat16, batch 1, by beams:", {n: round(ms, 1) for n, ms in figures["by_beams"].items()})
        for name, row in figures["by_items"].items():
            print(f"{int(name):>11,} items: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
