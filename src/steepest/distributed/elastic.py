"""Elastic averaging SGD: workers explore, a spring ties each to a centre."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.distributed.flat import gather, parts
from steepest.distributed.method import Centre, Client, Message, Replies, Reply, require_optimizer, require_period
from steepest.errors import UsageError


@dataclass(frozen=True)
class EASGD:
    """Asynchronous EASGD; with ``torch.optim.SGD(momentum=..., nesterov=True)`` as the worker's optimizer it is EAMSGD.

    In every ``tau``-th step, the first included, worker i and the centre x~ exchange d = alpha (x_i - x~): x_i <- x_i - d, x~ <- x~ + d.
    Then the worker's optimizer steps with the gradient taken before the exchange, as in the paper's algorithm 1. torch's Nesterov momentum
    keeps the look-ahead point as the parameters, so that in EAMSGD the spring acts on that point.

    Args:
        alpha: eta rho of the paper, in [0, 1]; 0.9 / workers is the paper's choice. At 0 every worker runs alone and the centre stays.
        tau: steps between two exchanges, at least 1.

    Raises:
        UsageError: for options out of their range.

    Source: S. Zhang, A. Choromanska, Y. LeCun, Deep learning with elastic averaging SGD, NeurIPS 2015, algorithms 1 and 2.
    """

    alpha: float
    tau: int = 4

    def __post_init__(self) -> None:
        require_alpha(self.alpha)
        require_period("tau", self.tau)

    def client(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> Client:
        """The part of one worker."""
        return _ElasticClient(parameters, require_optimizer("EASGD", optimizer), self.tau)

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """The part of the parameter server."""
        return _ElasticCentre(parameters, workers, self.alpha)


def require_alpha(alpha: float) -> None:
    """Refuse a moving rate outside [0, 1]."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}: it is the share of the way to the centre, in [0, 1]")


class _ElasticClient(Client):
    def __init__(self, parameters: Sequence[Tensor], optimizer: Optimizer, tau: int) -> None:
        super().__init__(parameters, optimizer)
        self.tau = tau

    def begin(self) -> Message | None:
        due = self.taken % self.tau == 0
        self.taken += 1
        return Message(gather(self.parameters)) if due else None

    @torch.no_grad()
    def finish(self, reply: Reply | None) -> None:
        if reply is not None:
            assert reply.payload is not None
            for p, pull in zip(self.parameters, parts(reply.payload, self.parameters), strict=True):
                p.sub_(pull)
        assert self.optimizer is not None
        self.optimizer.step()


class _ElasticCentre(Centre):
    def __init__(self, parameters: Sequence[Tensor], workers: int, alpha: float) -> None:
        super().__init__(parameters, workers)
        self.alpha = alpha

    @torch.no_grad()
    def exchange(self, worker: int, message: Message) -> Replies:
        assert message.payload is not None
        pull = (message.payload - gather(self.parameters)).mul_(self.alpha)
        for p, part in zip(self.parameters, parts(pull, self.parameters), strict=True):
            p.add_(part)
        self._updated(worker)
        self._seen[worker] = self.version
        return [(worker, Reply(pull))]
