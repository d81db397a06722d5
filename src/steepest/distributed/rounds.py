"""Synchronous methods as a centre sees them: it answers when enough workers have come."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.distributed.downpour import GradientClient
from steepest.distributed.elastic import require_alpha
from steepest.distributed.flat import gather, parts, scatter, set_gradients
from steepest.distributed.lost import LostPeerError
from steepest.distributed.method import (
    Centre,
    Client,
    Message,
    OptimizerFactory,
    Replies,
    Reply,
    require_optimizer,
    require_period,
)
from steepest.errors import UsageError


class _Rounds(Centre):
    """Collects messages of one round; a round closes with ``needed`` of them, summed in the order of the workers."""

    def __init__(self, parameters: Sequence[Tensor], workers: int, needed: int) -> None:
        super().__init__(parameters, workers)
        self.needed = needed
        self._round: dict[int, Tensor] = {}

    def exchange(self, worker: int, message: Message) -> Replies:
        assert message.payload is not None
        if self._seen[worker] != self.version:
            return [(worker, self._parameters(worker))]
        self._round[worker] = message.payload
        return self._close_if_full()

    def _close_if_full(self) -> Replies:
        if not self._round or len(self._round) < self.needed:
            return []
        came = sorted(self._round)
        replies = self.close([self._round[w] for w in came], came)
        self._round = {}
        return replies

    @abstractmethod
    def close(self, payloads: list[Tensor], came: list[int]) -> Replies:
        """Update with the round's messages; answer those who came."""

    def leave(self, worker: int, lost: bool = False) -> Replies:
        """Whoever has finished is not waited for any more; whoever is lost leaves a gap that only backup workers fill."""
        super().leave(worker, lost)
        self._round.pop(worker, None)
        if lost and len(self.present) < self.needed:
            raise LostPeerError(
                f"{len(self.present)} of {self.workers} workers are left and each round needs {self.needed}: start again from the "
                "parameters that the server holds, or with more backup workers"
            )
        self.needed = min(self.needed, len(self.present))
        return self._close_if_full()


def _mean(payloads: list[Tensor]) -> Tensor:
    """Summed one by one, from the first worker to the last."""
    total = payloads[0].clone()
    for payload in payloads[1:]:
        total += payload
    return total.div_(len(payloads))


@dataclass(frozen=True)
class BackupWorkers:
    """Synchronous SGD that waits for all workers but ``backup``, and drops the gradients of those who come too late.

    Args:
        server: makes the server's optimizer; it is given the mean of the round's gradients.
        backup: how many workers a round does not wait for, at least 0 and below the number of workers. So many may be lost.

    Raises:
        UsageError: for a number out of its range.

    Source: J. Chen, X. Pan, R. Monga, S. Bengio, R. Jozefowicz, Revisiting distributed synchronous SGD, 2016, algorithms 3 and 4.
    """

    server: OptimizerFactory
    backup: int = 0

    def __post_init__(self) -> None:
        if self.backup < 0:
            raise UsageError(f"backup is {self.backup}: it counts workers")

    def client(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> Client:
        """The part of one worker; it has no optimizer of its own."""
        return GradientClient(parameters, None, 1, 1)

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """The part of the parameter server."""
        if self.backup >= workers:
            raise UsageError(f"{self.backup} backup workers of {workers}: at least one has to be waited for")
        return _BackupCentre(parameters, workers, workers - self.backup, self.server)


class _BackupCentre(_Rounds):
    def __init__(self, parameters: Sequence[Tensor], workers: int, needed: int, server: OptimizerFactory) -> None:
        super().__init__(parameters, workers, needed)
        self.optimizer = server(parameters)

    def close(self, payloads: list[Tensor], came: list[int]) -> Replies:
        set_gradients(parts(_mean(payloads), self.parameters), self.parameters)
        self.optimizer.step()
        self._updated(came[0])
        return [(w, self._parameters(w)) for w in came]


@dataclass(frozen=True)
class LocalSGD:
    """Local SGD in the simulator: each worker runs alone, every ``period`` steps all take over the mean.

    The steps are those of ``torch.distributed.algorithms.model_averaging.averagers.PeriodicModelAverager``: the first step averages too.

    Args:
        period: steps between two averages, at least 1.

    Source: S. U. Stich, Local SGD converges fast and communicates little, ICLR 2019.
    """

    period: int = 4

    def __post_init__(self) -> None:
        require_period("period", self.period)

    def client(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> Client:
        """The part of one worker."""
        return _LocalClient(parameters, require_optimizer("local SGD", optimizer), self.period)

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """Where the mean is taken."""
        return _MeanCentre(parameters, workers, workers)


class _LocalClient(Client):
    def __init__(self, parameters: Sequence[Tensor], optimizer: Optimizer, period: int) -> None:
        super().__init__(parameters, optimizer)
        self.period = period

    def begin(self) -> Message | None:
        assert self.optimizer is not None
        self.optimizer.step()
        due = self.taken % self.period == 0
        self.taken += 1
        return Message(gather(self.parameters)) if due else None

    def finish(self, reply: Reply | None) -> None:
        if reply is not None:
            assert reply.payload is not None
            scatter(reply.payload, self.parameters)


class _MeanCentre(_Rounds):
    def close(self, payloads: list[Tensor], came: list[int]) -> Replies:
        scatter(_mean(payloads), self.parameters)
        self._updated(came[0])
        return [(w, self._parameters(w)) for w in came]


@dataclass(frozen=True)
class SynchronousEASGD:
    """Synchronous EASGD in the simulator, as ``ElasticAverager`` runs it between processes.

    In every ``tau``-th step x_i <- x_i - alpha (x_i - x~) for all i and x~ <- x~ + beta (mean x_i - x~), with the values before, then the
    optimizers step.

    Args:
        alpha: in [0, 1].
        beta: in [0, 1]; workers times alpha in the paper.
        tau: steps between two exchanges, at least 1.

    Source: Zhang, Choromanska, LeCun 2015, equations 5 and 6.
    """

    alpha: float
    beta: float
    tau: int = 1

    def __post_init__(self) -> None:
        require_alpha(self.alpha)
        require_beta(self.beta)
        require_period("tau", self.tau)

    def client(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> Client:
        """The part of one worker."""
        return _SpringClient(parameters, require_optimizer("EASGD", optimizer), self)

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """The centre."""
        return _SpringCentre(parameters, workers, self.beta)


def require_beta(beta: float) -> None:
    """Refuse a moving rate of the centre outside [0, 1]."""
    if not 0 <= beta <= 1:
        raise UsageError(f"beta is {beta}: it is the share of the way to the workers' mean, in [0, 1] (workers times alpha in the paper)")


class _SpringClient(Client):
    def __init__(self, parameters: Sequence[Tensor], optimizer: Optimizer, options: SynchronousEASGD) -> None:
        super().__init__(parameters, optimizer)
        self.options = options

    def begin(self) -> Message | None:
        due = self.taken % self.options.tau == 0
        self.taken += 1
        return Message(gather(self.parameters)) if due else None

    @torch.no_grad()
    def finish(self, reply: Reply | None) -> None:
        if reply is not None:
            assert reply.payload is not None
            own = gather(self.parameters)
            scatter(own.sub_((own - reply.payload).mul_(self.options.alpha)), self.parameters)
        assert self.optimizer is not None
        self.optimizer.step()


class _SpringCentre(_Rounds):
    def __init__(self, parameters: Sequence[Tensor], workers: int, beta: float) -> None:
        super().__init__(parameters, workers, workers)
        self.beta = beta

    def close(self, payloads: list[Tensor], came: list[int]) -> Replies:
        old = gather(self.parameters)
        scatter(old + (_mean(payloads) - old).mul_(self.beta), self.parameters)
        self._updated(came[0])
        for w in came:
            self._seen[w] = self.version
        return [(w, Reply(old)) for w in came]
