"""What a method of distributed descent is: the part of a worker, the part of the centre, and what passes between them.

The network (``server.py``, ``worker.py``) and the simulator run the same two parts, so that the same order of exchanges gives the same
parameters in both.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.optim import Optimizer

from steepest.distributed.flat import gather, scatter
from steepest.errors import UsageError

OptimizerFactory = Callable[[Sequence[Tensor]], Optimizer]


@dataclass(frozen=True, eq=False)
class Message:
    """What a worker sends.

    Args:
        payload: gradients or parameters as one vector, or None.
        fetch: whether parameters are wanted in return.
        start: the first coordinate that the message speaks of.
    """

    payload: Tensor | None
    fetch: bool = True
    start: int = 0


HELLO = Message(None)
"""A worker's first message: it asks for the parameters, whatever the method."""


@dataclass(frozen=True, eq=False)
class Reply:
    """What the centre answers; the vector is shared, and must not be written to."""

    payload: Tensor | None


Replies = list[tuple[int, Reply]]


class Client(ABC):
    """The worker's part: its parameters, the optimizer over them, the number of steps taken."""

    def __init__(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> None:
        self.parameters, self.optimizer, self.taken = parameters, optimizer, 0

    def start(self, reply: Reply) -> None:
        """Take over the centre's parameters, before the first step."""
        assert reply.payload is not None
        scatter(reply.payload, self.parameters)

    @abstractmethod
    def begin(self) -> Message | None:
        """One step, up to its exchange with the centre; the gradients are in place. None: this step has no exchange."""

    @abstractmethod
    def finish(self, reply: Reply | None) -> Message | None:
        """The rest of the step after the exchange. A message in return means: one more exchange."""


class Centre(ABC):
    """The part of the parameter server: the parameters, and how messages change them.

    Args:
        parameters: changed in place.
        workers: how many will take part; they are numbered from 0.
    """

    def __init__(self, parameters: Sequence[Tensor], workers: int) -> None:
        self.parameters, self.workers = parameters, workers
        self.version = 0
        self.staleness: list[int] = []
        self.present: set[int] = set(range(workers))
        self._seen: dict[int, int] = {}
        self._copy: Tensor | None = None

    def handle(self, worker: int, message: Message) -> Replies:
        """Take a message in; say who is to be answered now, in order. Workers that wait are answered by a later message."""
        if worker not in self._seen:
            return [(worker, self._parameters(worker))]
        return self.exchange(worker, message)

    @abstractmethod
    def exchange(self, worker: int, message: Message) -> Replies:
        """What ``handle`` does after a worker's first message."""

    def leave(self, worker: int, lost: bool = False) -> Replies:
        """A worker has left or is lost; those who waited for it may be answered.

        Raises:
            LostPeerError: where the method cannot go on without it.
        """
        self.present.discard(worker)
        return []

    def _updated(self, worker: int) -> None:
        """Count an update and how many others came between it and what the worker had seen."""
        self.staleness.append(self.version - self._seen[worker])
        self.version += 1
        self._copy = None

    def _delay(self, worker: int) -> int:
        return self.version - self._seen[worker]

    def _parameters(self, worker: int) -> Reply:
        self._seen[worker] = self.version
        if self._copy is None:
            self._copy = gather(self.parameters)
        return Reply(self._copy)


class Method(Protocol):
    """Options of a method; makes its two parts."""

    def client(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> Client:
        """The part of one worker."""
        ...

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """The part of the parameter server."""
        ...


def require_period(name: str, value: int) -> None:
    """Refuse a number of steps below one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}: it counts steps, so give a whole number of at least 1")


def require_optimizer(method: str, optimizer: Optimizer | None) -> Optimizer:
    """Refuse a worker without the optimizer its method moves it by."""
    if optimizer is None:
        raise UsageError(f"{method} moves each worker by an optimizer of its own: give one")
    return optimizer
