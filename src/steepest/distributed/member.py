"""A process of a run with a parameter server: rank 0 serves, the others work."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Queue
from types import TracebackType

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.distributed.flat import trainable
from steepest.distributed.link import Link, links
from steepest.distributed.lost import LostPeerError
from steepest.distributed.method import HELLO, Centre, Client, Method, Replies, Reply
from steepest.errors import UsageError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What a parameter server has done.

    Args:
        schedule: the worker (numbered from 0) of each message, in the order in which they took effect; where worker w has left or is
            lost, ~w. ``simulate(schedule=...)`` replays it.
        staleness: of each update, how many others came since its worker had last seen the parameters.
        lost: workers that did not leave by themselves.
    """

    schedule: tuple[int, ...]
    staleness: tuple[int, ...]
    lost: tuple[int, ...]


class Worker:
    """Ranks 1 and up: in the training loop, call ``step`` in place of the optimizer's. A context manager that leaves at its end."""

    serving = False

    def __init__(self, client: Client, link: Link) -> None:
        self._client, self._link = client, link
        client.start(link.exchange(HELLO))

    def step(self) -> None:
        """One step of the method with the gradients in place.

        Raises:
            LostPeerError: where the parameter server is lost.
        """
        message = self._client.begin()
        if message is None:
            self._client.finish(None)
        while message is not None:
            message = self._client.finish(self._link.exchange(message))

    def leave(self) -> None:
        """Tell the server that this worker has finished."""
        self._link.leave()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After an error the connection just closes: the server then counts this worker as lost.
        if kind is None:
            self.leave()


class Server:
    """Rank 0: holds the parameters (those of the model it was given) and answers the workers."""

    serving = True

    def __init__(self, centre: Centre, links: Sequence[Link]) -> None:
        self._centre, self._links = centre, links
        self._lock = threading.Lock()
        self._answers: list[Queue[Reply | None]] = [Queue() for _ in links]
        self._schedule: list[int] = []
        self._lost: list[int] = []
        self._error: Exception | None = None

    def serve(self) -> Served:
        """Answer until every worker has left or is lost; a lost worker does not hold up the others.

        Raises:
            LostPeerError: where all workers are lost, or the method cannot go on without those that are.
        """
        threads = [threading.Thread(target=self._attend, args=(w,), daemon=True) for w in range(len(self._links))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        if len(self._lost) == len(self._links):
            raise LostPeerError("all workers are lost; the model holds the parameters after the last update")
        return Served(tuple(self._schedule), tuple(self._centre.staleness), tuple(sorted(self._lost)))

    def _attend(self, worker: int) -> None:
        """Everything with one worker; blocked while it computes, so that each worker has a thread."""
        link = self._links[worker]
        try:
            while (message := link.receive()) is not None:
                with self._lock:
                    if self._error is not None:
                        break
                    self._schedule.append(worker)
                    self._deliver(self._centre.handle(worker, message))
                reply = self._answers[worker].get()
                if reply is None:
                    break
                link.reply(reply)
            else:
                self._leave(worker, lost=False)
                return
            link.leave()
        except LostPeerError as error:
            _log.warning("worker %d: %s", worker, error)
            self._lost.append(worker)
            self._leave(worker, lost=True)
        except Exception as error:
            self._stop(error)

    def _leave(self, worker: int, lost: bool) -> None:
        with self._lock:
            self._schedule.append(~worker)
            try:
                self._deliver(self._centre.leave(worker, lost))
            except LostPeerError as error:
                self._stop(error)

    def _stop(self, error: Exception) -> None:
        """End the run for everybody."""
        if self._error is None:
            self._error = error
        for answers in self._answers:
            answers.put(None)

    def _deliver(self, replies: Replies) -> None:
        for worker, reply in replies:
            self._answers[worker].put(reply)


def join(
    method: Method, model: nn.Module | Sequence[Tensor], optimizer: Optimizer | None = None, *, patience: float = 300.0
) -> Server | Worker:
    """Take part in a run with a parameter server; every process of the default group has to call this.

        member = join(EASGD(alpha=0.3), model, optimizer)
        if member.serving:
            member.serve()                     # then the model holds the result
        else:
            with member:
                for x, y in batches:
                    optimizer.zero_grad()
                    criterion(model(x), y).backward()
                    member.step()

    Only parameters are exchanged: buffers, such as the running means of batch normalisation, stay with each process.

    Args:
        method: ``Downpour``, ``DelayCompensated``, ``EASGD`` or ``BackupWorkers``.
        model: or its parameters; of one type and on one device, the same on all processes. Workers start from rank 0's values.
        optimizer: over the same parameters, where the method lets workers move by themselves.
        patience: seconds after which a silent peer is given up; longer than the longest step.

    Raises:
        UsageError: without an initialised default group, with a single process, or for parameters that do not fit into one vector.
        LostPeerError: where a peer is lost at the start.
    """
    if not dist.is_initialized():
        raise UsageError("call torch.distributed.init_process_group first, under torchrun or steepest.distributed.launch")
    if dist.get_world_size() < 2:
        raise UsageError("there is one process: a run needs a parameter server and at least one worker, so start two or more")
    if not 0 < patience < math.inf:
        raise UsageError(f"patience is {patience}: give a positive number of seconds")
    parameters = trainable(model.parameters() if isinstance(model, nn.Module) else model)
    connected = links(sum(p.numel() for p in parameters), parameters[0], patience)
    if dist.get_rank() == 0:
        return Server(method.centre(parameters, len(connected)), connected)
    return Worker(method.client(parameters, optimizer), connected[0])
