"""Recipe section `generator`: the encoder-decoder and its training stages P, S1 and S2."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section
from onevision.precision import Precision


class GeneratorTrainingConfig(Section):
    """Supervised training of the generator."""

    d_model: int = Field(64, ge=16)
    encoder_layers: int = Field(2, ge=1)
    decoder_layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    feedforward: int = Field(128, ge=16)
    dropout: float = Field(0.3, ge=0, lt=1)
    own_id: bool = Field(True, description="whether the photo's own semantic ID is a token of the prompt")
    patch_tokens: bool = Field(
        True, description="whether the photo's patches are tokens; if not, its one pooled vector stands for it"
    )
    shopper: bool = Field(
        True, description="whether histories and profile are read, in the prompt and in the choice model"
    )
    history_length: int = Field(10, ge=1, description="recent items of each kind in the prompt")
    long_history_length: int = Field(50, ge=1, description="older items, read through a few soft tokens")
    batch_size: int = Field(128, ge=2)
    micro_batches: int = Field(
        1, ge=1, description="parts of like length that a batch is read in, for less padding and memory; one update"
    )
    precision: Precision = Field(
        "fp32", description="of training; auto: bf16 where CPU or GPU has it natively, which pays for wide models"
    )
    checkpoint_every: int = Field(
        100, ge=0, description="steps between checkpoints, from which a killed training goes on; 0 writes none"
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    steps_visual: int = Field(200, ge=0, description="stage P: image -> semantic ID, view A -> item of view B")
    category_weight: float = Field(
        0.1, ge=0, description="weight of the guess of the product's category beside the semantic ID, in all stages"
    )
    category_to_id_share: float = Field(
        0.0, ge=0, le=0.5, description="share of stage P and its replay: a category -> the semantic ID of an item in it"
    )
    id_to_category_share: float = Field(
        0.0, ge=0, le=0.5, description="share of stage P and its replay: a semantic ID -> its category"
    )
    steps_cooccurrence: int = Field(100, ge=0, description="stage S1: query image -> clicked item, no user")
    steps_personal: int = Field(200, ge=0, description="stage S2: full prompt -> clicked or ordered item")
    check_every: int = Field(100, ge=1, description="steps between checks on validation days; the best one is kept")
    replay_share: float = Field(0.7, ge=0, le=1, description="share of stage P kept in S1 and S2")
    order_weight: float = Field(2.0, gt=0)
    history_dropout: float = Field(0.3, ge=0, le=1, description="prompts whose history is hidden, for cold users")
    token_dropout: float = Field(
        0.3, ge=0, lt=1, description="share of batches in the last third of S2 that are read with pruned image tokens"
    )
    view_mix: float = Field(2.0, ge=0, description="a of the Beta(a, a) mix of query and item views; 0 for none")
    warm_steps: int = Field(
        100, ge=1, description="most steps of S2 from a parent generator, as the nightly refresh takes them"
    )
    warm_passes: float = Field(
        2.0, gt=0, description="times that those steps draw each click of the day: fewer steps where less is new"
    )
    warm_learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of those steps")
    warm_days: float = Field(1.0, gt=0, description="newest training days that count as the day")
    warm_day_share: float = Field(
        0.5, gt=0, lt=1, description="share of clicks and pictures from the day; the rest is replay"
    )
    warm_choice_epochs: int = Field(2, ge=1, description="passes of the choice model when it goes on from a parent's")
    taste_rank: int = Field(16, ge=1, description="dimensions of taste in the choice model")
    choice_epochs: int = Field(10, ge=1, description="passes of the choice model over the clicks")
    choice_learning_rate: float = Field(5e-3, gt=0)
    choice_candidates: int = Field(200, ge=2, description="nearest items that a click is set against")
    guidance: tuple[float, ...] = Field(
        (0.0, 0.5, 1.0, 2.0), min_length=1, description="taste in the choice of beams, tried on validation days"
    )
