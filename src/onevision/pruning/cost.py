"""What a query costs, counted: the generator, and one look of the image tower."""

from __future__ import annotations

import torch

from onevision.encoder.model import Encoder
from onevision.generator.configuration import GeneratorConfig

FRONT_TOKENS = 5


def query_flops(
    config: GeneratorConfig,
    kept_tokens: float,
    history_tokens: float,
    steps: float,
    kept_history: float | None = None,
    spared: float = 0.0,
) -> float:
    """FLOPs (2 a multiply-add) of one query: prompt, encoder and beams; neither the image tower nor the choice among
    what was found (`ChoiceModel.flops`) is in it.

    Args:
        kept_tokens: image tokens after the first encoder layer; a merged token joins them if any was dropped, of these
            or of the histories.
        history_tokens: tokens of history and long history; kept_history: those after the first encoder layer, by
            default all.
        steps: codes that the beams read in the decoder, over all levels (`Beams.steps`).
        spared: tokens of the context that these codes did not attend to any more, summed over codes.
    """
    d, hidden = config.d_model, config.feedforward
    kept_history = history_tokens if kept_history is None else kept_history
    dropped = kept_tokens < config.image_tokens or kept_history < history_tokens
    full = FRONT_TOKENS + config.image_tokens + history_tokens
    short = FRONT_TOKENS + kept_tokens + dropped + kept_history

    def layer(tokens: float) -> float:
        return tokens * (4 * d * d + 2 * d * hidden) + 2 * tokens * tokens * d

    embed = config.image_tokens * config.token_dim * d
    look = config.heads * d * (d + full) if dropped else 0  # what says which tokens are dropped
    encoder = layer(full) + look + (config.encoder_layers - 1) * layer(short)
    context = config.decoder_layers * short * 2 * d * d
    code = config.decoder_layers * (6 * d * d + 2 * d * hidden + 2 * short * d)
    return 2.0 * (embed + encoder + context + steps * code - config.decoder_layers * 2 * d * spared)


def look_flops(encoder: Encoder) -> float:
    """FLOPs (2 a multiply-add) of one look of an encoder's tower at a photo, as torch counts them on a black one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    black = torch.zeros(1, encoder.image_size, encoder.image_size, 3, dtype=torch.uint8)
    packed = {torch.ops.mkldnn._convolution_pointwise: _convolution_flops}  # of a frozen tower; torch knows the others
    counter = FlopCounterMode(display=False, custom_mapping=packed)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        encoder.tower.see(black)
    return float(counter.get_total_flops())


def _convolution_flops(x: torch.Size, weight: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:  # noqa: ARG001
    return 2 * out_shape.numel() * weight[1:].numel()
