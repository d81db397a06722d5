"""A recurrent network that reads Python's language reference character by character."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from steepest.race.data import text
from steepest.race.task import Task

_LENGTH, _BATCH = 32, 32


class _Reader(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, 24)
        self.recur = nn.GRU(24, 64, batch_first=True)
        self.head = nn.Linear(64, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recur(self.embed(x))[0])


def pieces(codes: Tensor, length: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Endless batches ``[size, length + 1]`` of stretches of the text from random places."""
    while True:
        starts = torch.randint(len(codes) - length, (size, 1), generator=generator)
        yield codes[starts + torch.arange(length + 1)]


def next_character(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each character given those before it in its stretch."""
    return cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def task() -> Task:
    """A GRU of 64 units on stretches of 32 characters; judged by nats per character on text held out."""
    codes, held, characters = text()
    fixed = next(pieces(held, _LENGTH, 128, torch.Generator().manual_seed(0)))
    return Task(
        "char_rnn",
        "Characters of Python's language reference, a GRU",
        lambda: _Reader(characters),
        lambda generator: pieces(codes, _LENGTH, _BATCH, generator),
        next_character,
        lambda model: float(next_character(model, fixed)),
        measure="validation nats per character",
        steps=300,
        every=15,
    )
