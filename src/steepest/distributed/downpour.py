"""Downpour SGD: workers send gradients whenever they have them, the parameter server applies them as they come."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from steepest.distributed.flat import gather_gradients, parts, scatter, set_gradients
from steepest.distributed.method import Centre, Client, Message, OptimizerFactory, Replies, Reply, require_period


@dataclass(frozen=True)
class Downpour:
    """Asynchronous SGD with a parameter server, which has an optimizer of its own.

    A worker sums its gradients; after every ``push`` steps it sends the sum g, and the server takes the step of its optimizer with g as
    gradient; after every ``fetch`` steps it takes over the server's parameters. With ``push = fetch = 1`` this is asynchronous SGD. Where
    the step of the server's optimizer has an argument ``delay`` (``steepest.optim.AdaDelay``) it is told how many updates came between the
    parameters at which the gradient was taken and now.

    A push and a fetch in one step are one exchange that no other worker interrupts; the paper lets them run in threads of their own.

    Args:
        server: makes the server's optimizer, such as ``lambda p: torch.optim.Adagrad(p, lr=0.02)``, as in the paper.
        push: steps between two pushes, at least 1.
        fetch: steps between two fetches, at least 1. In between a worker moves by its own optimizer, or stays where it has none.

    Source: J. Dean et al., Large scale distributed deep networks, NeurIPS 2012, section 4.1.
    """

    server: OptimizerFactory
    push: int = 1
    fetch: int = 1

    def __post_init__(self) -> None:
        require_period("push", self.push)
        require_period("fetch", self.fetch)

    def client(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> Client:
        """The part of one worker; the optimizer may be None."""
        return GradientClient(parameters, optimizer, self.push, self.fetch)

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """The part of the parameter server."""
        return GradientCentre(parameters, workers, self.server)


class GradientClient(Client):
    """Sends sums of gradients, fetches parameters."""

    def __init__(self, parameters: Sequence[Tensor], optimizer: Optimizer | None, push: int, fetch: int) -> None:
        super().__init__(parameters, optimizer)
        self.push, self.fetch = push, fetch
        self._sum: Tensor | None = None

    def begin(self) -> Message | None:
        """Sum the gradient, move locally; the exchange where one is due."""
        gradient = gather_gradients(self.parameters)
        self._sum = gradient if self._sum is None else self._sum.add_(gradient)
        self.taken += 1
        fetch = self.taken % self.fetch == 0
        # A local step right before a fetch would be overwritten.
        if self.optimizer is not None and not fetch:
            self.optimizer.step()
        if self.taken % self.push == 0:
            payload, self._sum = self._sum, None
            return Message(payload, fetch)
        return Message(None) if fetch else None

    def finish(self, reply: Reply | None) -> None:
        """Take over what was fetched."""
        if reply is not None and reply.payload is not None:
            scatter(reply.payload, self.parameters)


class GradientCentre(Centre):
    """Takes one step of an optimizer for each gradient that comes in."""

    def __init__(self, parameters: Sequence[Tensor], workers: int, server: OptimizerFactory) -> None:
        super().__init__(parameters, workers)
        self.optimizer = server(parameters)
        self._told = "delay" in inspect.signature(type(self.optimizer).step).parameters

    def exchange(self, worker: int, message: Message) -> Replies:
        """Update with a pushed gradient, answer with parameters where they are wanted."""
        if message.payload is not None:
            set_gradients(parts(self.gradient(worker, message.payload), self.parameters), self.parameters)
            step: Any = self.optimizer.step
            step(delay=self._delay(worker)) if self._told else step()
            self._updated(worker)
        return [(worker, self._parameters(worker) if message.fetch else Reply(None))]

    def gradient(self, worker: int, pushed: Tensor) -> Tensor:
        """What the optimizer is given for a pushed gradient."""
        return pushed
