"""The connection of one worker with the parameter server: a gloo group of these two alone.

A group that all processes share is lost with any of them: gloo closes its connections and fails whatever else runs on it. With a group for
each pair, what a killed worker breaks is the connection that nobody else uses. A process that dies closes its sockets, which the other side
sees at once; one that is stopped or cut off is given up when it has kept silent for the group's timeout. Tensors cross in host memory, also
those of accelerators: a NCCL communicator whose peer dies takes its process with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from steepest.distributed.lost import LostPeerError
from steepest.distributed.method import Message, Reply

_LEAVE = -1


@dataclass(frozen=True, eq=False)
class Link:
    """One end.

    Args:
        group: of the two processes.
        peer: the rank of the other end.
        size: of a vector of all parameters.
        like: a tensor of the parameters' type, on their device.
    """

    group: dist.ProcessGroup
    peer: int
    size: int
    like: Tensor

    def exchange(self, message: Message) -> Reply:
        """The worker's side.

        Raises:
            LostPeerError: where the server is gone, or has ended the run.
        """
        self._send(message.payload, message.start, message.fetch)
        payload, status, _ = self._receive()
        if status == _LEAVE:
            raise LostPeerError("the parameter server has ended the run: its own message says why")
        return Reply(payload)

    def leave(self) -> None:
        """Tell the other end that this one goes."""
        self._send(None, _LEAVE, False)

    def receive(self) -> Message | None:
        """The server's side: the next message, None when the worker leaves.

        Raises:
            LostPeerError: where the worker is gone.
        """
        payload, start, fetch = self._receive()
        return None if start == _LEAVE else Message(payload, fetch, start)

    def reply(self, reply: Reply) -> None:
        """Answer."""
        self._send(reply.payload, 0, False)

    def _send(self, payload: Tensor | None, start: int, fetch: bool) -> None:
        size = -1 if payload is None else payload.numel()
        try:
            dist.send(torch.tensor([size, start, fetch]), self.peer, group=self.group)
            if payload is not None:
                dist.send(payload.cpu().contiguous(), self.peer, group=self.group)
        except RuntimeError as error:
            raise self._lost() from error

    def _receive(self) -> tuple[Tensor | None, int, bool]:
        header = torch.empty(3, dtype=torch.int64)
        try:
            dist.recv(header, self.peer, group=self.group)
            size, start, fetch = (int(v) for v in header)
            if size < 0:
                return None, start, bool(fetch)
            payload = torch.empty(size, dtype=self.like.dtype)
            dist.recv(payload, self.peer, group=self.group)
        except RuntimeError as error:
            raise self._lost() from error
        return payload.to(self.like.device), start, bool(fetch)

    def _lost(self) -> LostPeerError:
        return LostPeerError(
            f"rank {self.peer}{' (the parameter server)' if self.peer == 0 else ''} is lost: it (a) was killed or failed, "
            "(b) was cut off, or (c) kept silent for longer than `patience`"
        )


def links(size: int, like: Tensor, patience: float) -> list[Link]:
    """A group for each worker and rank 0; every process has to call this. On a worker a list of one."""
    own, mine = dist.get_rank(), []
    for worker in range(1, dist.get_world_size()):
        group = dist.new_group([0, worker], timeout=timedelta(seconds=patience), backend="gloo")
        if own in (0, worker):
            assert isinstance(group, dist.ProcessGroup)
            mine.append(Link(group, worker if own == 0 else 0, size, like))
    return mine
