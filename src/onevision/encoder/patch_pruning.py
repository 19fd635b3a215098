"""Patches leave a vision transformer on its way: after a third of its layers only those that are looked at go on.

As in EViT (Liang et al. 2022, arXiv 2202.07800) the class token's attention says which patches matter, and the others
go on as one token, their mean weighted by it. There a fixed number stays; here (ours) as many as hold a share of the
attention, picture by picture: a batch is compacted to its widest picture, and what is not a picture's own is masked.
After the last layer every patch is in its place again, a merged one with what became of the merged token.

It works with models of `transformers` whose layers read tokens and a mask and nothing else, and leave attention to the
library's interface: ViT, DeiT, DINOv2 with and without registers, CLIP, SigLIP. Not with layers that are told where a
patch was (DINOv3, BEiT), with windows (Swin), or with convolutions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

from onevision.attention_mass import KeepRule, merge_dropped

DEPTH = 1 / 3
"""Share of the layers that all patches go through; EViT prunes for the first time there."""
_READS = {"hidden_states", "attention_mask", "kwargs"}
_ATTENTION = "onevision_patches"
"""Name of `_attend` among the attention functions of `transformers`."""


class PatchLayers:
    """The layers of a vision transformer, which go on with fewer patches within `pruned`. Use `PatchLayers.find`.

    Attributes:
        patches: of a picture; front: class and register tokens before them, which always stay.
        first: layers that all patches go through.
        watched: the modules of the last of these, whose attention decides.
    """

    def __init__(self, net: Any, layers: nn.ModuleList, tokens: int, patches: int) -> None:
        from transformers import AttentionInterface

        self.patches, self.front = patches, tokens - patches
        self.first, self.count = max(1, round(DEPTH * len(layers))), len(layers)
        decides = layers[self.first - 1]
        self.watched = set(decides.modules())
        self._width = int(net.config.hidden_size)
        self._linear = sum(m.weight.numel() for m in decides.modules() if isinstance(m, nn.Linear))
        self._embedding = patches * sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
        AttentionInterface.register(_ATTENTION, _attend)
        net.set_attn_implementation(_ATTENTION)
        decides.register_forward_hook(self._after_decision)
        layers[-1].register_forward_hook(self._after_last)

    @classmethod
    def find(cls, net: Any, tokens: int, patches: int) -> PatchLayers | None:
        """The layers of a `transformers` model; None of one that this does not work with.

        Args:
            tokens, patches: of a picture, after the last layer.
        """
        stacks = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len(m) > 1 and all(map(_reads, m))]
        if len(stacks) != 1 or net.config._attn_implementation != "sdpa":
            return None
        return cls(net, stacks[0], tokens, patches)

    @contextmanager
    def pruned(self, rule: KeepRule) -> Iterator[PatchPass]:
        """Within, pictures that go through the layers lose patches by this rule."""
        under_way = PatchPass(self, rule)
        token = _under_way.set(under_way)
        try:
            yield under_way
        finally:
            _under_way.reset(token)

    def flops(self, kept: float) -> float:
        """FLOPs (2 a multiply-add) of patch embedding and layers for one look at a picture that keeps so many patches;
        a merged token joins them if any was dropped."""

        def layer(tokens: float) -> float:
            return tokens * self._linear + 2 * tokens * tokens * self._width

        whole = self.first * layer(self.front + self.patches)
        short = (self.count - self.first) * layer(self.front + kept + (kept < self.patches))
        return 2.0 * (self._embedding + whole + short)

    def _after_decision(self, layer: nn.Module, args: Any, hidden: Tensor) -> Tensor | None:  # noqa: ARG002
        under_way = _under_way.get()
        return under_way.compact(hidden) if under_way and under_way.layers is self else None

    def _after_last(self, layer: nn.Module, args: Any, hidden: Tensor) -> Tensor | None:  # noqa: ARG002
        under_way = _under_way.get()
        return under_way.restore(hidden) if under_way and under_way.layers is self else None


class PatchPass:
    """What a rule does to the batches that go through.

    Attributes:
        kept: of every batch, how many patches of each look at a picture went on by themselves, (N,).
        mask: (N, 1, 1, T) tokens that are a picture's own, while there are others; else None.
    """

    def __init__(self, layers: PatchLayers, rule: KeepRule) -> None:
        self.layers, self.rule = layers, rule
        self.kept: list[Tensor] = []
        self.mask: Tensor | None = None

    def watch(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Note how much the class token looks at each patch, or where there is none all tokens do; mean over heads.

        Args:
            query, key: (N, heads, T, d).
        """
        asking = query[:, :, :1] if self.layers.front else query
        weights = (asking @ key.transpose(2, 3) * scaling).softmax(-1)
        self._mass = weights.mean((1, 2))[:, self.layers.front :]

    def compact(self, hidden: Tensor) -> Tensor:
        """Tokens (N, T, d) -> front, kept patches and the merged one."""
        front = self.layers.front
        keep = self.rule(self._mass)
        patches, own = merge_dropped(hidden[:, front:], self._mass, keep)
        self._place = torch.where(keep, keep.cumsum(1) - 1, patches.shape[1] - 1)
        self.kept.append(keep.sum(1))
        own = torch.cat([own.new_ones(len(own), front), own], 1)
        self.mask = None if own.all() else own[:, None, None]
        return torch.cat([hidden[:, :front], patches], 1)

    def restore(self, hidden: Tensor) -> Tensor:
        """What `compact` made shorter -> (N, T, d), every patch in its place."""
        self.mask = None
        patches = hidden[:, self.layers.front :]
        place = self._place[..., None].expand(-1, -1, hidden.shape[2])
        return torch.cat([hidden[:, : self.layers.front], patches.gather(1, place)], 1)


_under_way: ContextVar[PatchPass | None] = ContextVar("patch_pass", default=None)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention as `transformers` has it, with the mask of the pass that is under way."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    under_way = _under_way.get()
    if under_way is not None:
        if module in under_way.layers.watched:
            under_way.watch(query, key, options["scaling"])
        if under_way.mask is not None:
            attention_mask = under_way.mask
    return cast(tuple[Tensor, None], sdpa_attention_forward(module, query, key, value, attention_mask, **options))


def _reads(layer: nn.Module) -> bool:
    """Whether a layer reads tokens and a mask, and nothing that belongs to a place."""
    return set(inspect.signature(layer.forward).parameters) == _READS
