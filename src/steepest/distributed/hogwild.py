"""Hogwild: workers change shared parameters without locks."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.distributed.flat import gather, gather_gradients, parts, trainable
from steepest.distributed.method import Centre, Client, Message, Replies, Reply, require_period
from steepest.errors import UsageError


def share(model: nn.Module | Sequence[Tensor]) -> None:
    """Let all processes of the default group use the same memory for the model's parameters; rank 0's values win.

    Afterwards every process trains as if it were alone: its optimizer writes to the parameters that all see. What Recht et al. prove asks
    for an atomic addition per coordinate; torch's in-place operations are not atomic, so that an addition is lost now and then. A process
    that dies holds nothing up. Processes have to be on one machine, and parameters in host memory. Make the optimizer before or after.

    Raises:
        UsageError: without an initialised default group, across machines, or for parameters elsewhere than in host memory.

    Source: B. Recht, C. Re, S. Wright, F. Niu, Hogwild!: a lock-free approach to parallelizing stochastic gradient descent, NeurIPS 2011.
    """
    if not dist.is_initialized():
        raise UsageError("call torch.distributed.init_process_group first, under torchrun or steepest.distributed.launch")
    parameters = trainable(model.parameters() if isinstance(model, nn.Module) else model)
    if parameters[0].device.type != "cpu":
        raise UsageError(f"the parameters are on {parameters[0].device}: Hogwild shares host memory, so move the model to the cpu")
    size = sum(p.numel() for p in parameters)
    serving = dist.get_rank() == 0
    named: list[str | None] = [None]
    if serving:
        # In memory where the system has such a folder.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        handle, named[0] = tempfile.mkstemp(prefix="steepest-hogwild-", dir=memory)
        os.close(handle)
        _map(named[0], size, parameters[0].dtype).copy_(gather(parameters))
    dist.broadcast_object_list(named)
    assert named[0] is not None
    found = torch.tensor([Path(named[0]).exists()], dtype=torch.int64)
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    try:
        if not found.item():
            raise UsageError("the processes are on several machines: Hogwild needs memory that all of them share")
        flat = _map(named[0], size, parameters[0].dtype)
        for p, part in zip(parameters, parts(flat, parameters), strict=True):
            p.data = part
        dist.barrier()
    finally:
        # The memory lives as long as somebody maps it; its name is not needed any more.
        if serving:
            Path(named[0]).unlink(missing_ok=True)


def _map(path: str, size: int, dtype: torch.dtype) -> Tensor:
    return torch.from_file(path, shared=True, size=size, dtype=dtype)


@dataclass(frozen=True)
class Hogwild:
    """Hogwild in the simulator: SGD whose workers read and write the parameters block by block, each block at another time.

    Between two blocks of one worker others write: it takes its gradient at a mix of versions, and its own update shows in parts. The
    simulator's ``latency`` is the time from one block to the next.

    Args:
        lr: the rate, positive.
        blocks: into how many the coordinates are cut, at least 1; with 1 this is asynchronous SGD whose writes and reads are two events.

    Raises:
        UsageError: for options out of their range.

    Source: Recht, Re, Wright, Niu 2011; inconsistent reads: H. Mania et al., Perturbed iterate analysis for asynchronous stochastic
    optimization, SIAM J. Optim. 2017.
    """

    lr: float
    blocks: int = 4

    def __post_init__(self) -> None:
        require_period("blocks", self.blocks)
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr is {self.lr}: give a positive rate")

    def client(self, parameters: Sequence[Tensor], optimizer: Optimizer | None) -> Client:
        """The part of one worker; it has no optimizer."""
        return _BlockClient(parameters, self.blocks)

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """The shared parameters."""
        return _Shared(parameters, workers, self)


def _cuts(size: int, blocks: int) -> list[slice]:
    ends = [size * k // blocks for k in range(blocks + 1)]
    return [slice(a, b) for a, b in pairwise(ends) if b > a]


class _BlockClient(Client):
    """Writes every block, then reads every block."""

    def __init__(self, parameters: Sequence[Tensor], blocks: int) -> None:
        super().__init__(parameters, None)
        self.cuts = _cuts(sum(p.numel() for p in parameters), blocks)
        self._at = 0
        self._gradient = self._read = gather(parameters)

    def begin(self) -> Message | None:
        self.taken += 1
        self._gradient, self._at = gather_gradients(self.parameters), 0
        self._read = gather(self.parameters)
        return self._next()

    @torch.no_grad()
    def finish(self, reply: Reply | None) -> Message | None:
        assert reply is not None
        if reply.payload is not None:
            self._read[self.cuts[self._at - len(self.cuts)]] = reply.payload
        self._at += 1
        if self._at < 2 * len(self.cuts):
            return self._next()
        for p, part in zip(self.parameters, parts(self._read, self.parameters), strict=True):
            p.copy_(part)
        return None

    def _next(self) -> Message:
        writes = self._at < len(self.cuts)
        cut = self.cuts[self._at % len(self.cuts)]
        return Message(self._gradient[cut] if writes else None, not writes, cut.start)


class _Shared(Centre):
    def __init__(self, parameters: Sequence[Tensor], workers: int, options: Hogwild) -> None:
        super().__init__(parameters, workers)
        self.lr = options.lr
        self.cuts = {cut.start: cut for cut in _cuts(sum(p.numel() for p in parameters), options.blocks)}
        self._flat = gather(parameters)
        for p, part in zip(parameters, parts(self._flat, parameters), strict=True):
            p.data = part

    def exchange(self, worker: int, message: Message) -> Replies:
        block = self._flat[self.cuts[message.start]]
        if message.payload is None:
            if message.start == 0:
                self._seen[worker] = self.version
            return [(worker, Reply(block.clone()))]
        block.add_(message.payload, alpha=-self.lr)
        self._copy = None
        if message.start == 0:
            self._updated(worker)
        return [(worker, Reply(None))]
