"""A small transformer on the same text as the recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steepest.race.data import text
from steepest.race.task import Task
from steepest.race.tasks.char_rnn import next_character, pieces

_LENGTH, _BATCH, _WIDTH = 32, 32, 48


class _Transformer(nn.Module):
    """Two blocks, normalised before attention, causal."""

    mask: Tensor

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, _WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(_LENGTH, _WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(_WIDTH, 4, 2 * _WIDTH, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(_LENGTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place
        for block in self.blocks:
            h = block(h, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(h))


def task() -> Task:
    """Two blocks of width 48 with four heads on stretches of 32 characters; judged by nats per character on text held out."""
    codes, held, characters = text()
    fixed = next(pieces(held, _LENGTH, 128, torch.Generator().manual_seed(0)))
    return Task(
        "transformer",
        "Characters of Python's language reference, a transformer",
        lambda: _Transformer(characters),
        lambda generator: pieces(codes, _LENGTH, _BATCH, generator),
        next_character,
        lambda model: float(next_character(model, fixed)),
        measure="validation nats per character",
        steps=300,
        every=15,
    )
