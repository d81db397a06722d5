"""Synchronous methods between processes: torch's model averagers, an elastic one, and what happens when a process is lost."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import ModelAverager
from torch.optim import Optimizer

from steepest.distributed.checkpoints import Checkpoints
from steepest.distributed.elastic import require_alpha
from steepest.distributed.flat import gather, scatter, trainable
from steepest.distributed.method import require_period
from steepest.distributed.rollcall import guarded
from steepest.distributed.rounds import require_beta
from steepest.errors import UsageError


class ElasticAverager(ModelAverager):
    """Synchronous EASGD as a model averager: every process holds the centre, which moves alike everywhere.

    Args:
        parameters: the model's; the centre starts at their values, which have to be the same on all processes.
        alpha, beta, tau: as in ``SynchronousEASGD``; beta is workers times alpha where it is None.
        process_group: the default group where it is None.

    Raises:
        UsageError: for options out of their range.

    Source: Zhang, Choromanska, LeCun 2015, equations 5 and 6.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        alpha: float,
        beta: float | None = None,
        tau: int = 1,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(process_group)
        self.workers = dist.get_world_size(self.process_group)
        self.alpha, self.beta, self.tau = alpha, self.workers * alpha if beta is None else beta, tau
        require_alpha(alpha)
        require_beta(self.beta)
        require_period("tau", tau)
        self.centre = gather(trainable(parameters))

    @torch.no_grad()
    def average_parameters(self, params: Iterable[Any]) -> None:
        """Pull the parameters (or groups of them) and the centre together, where it is due; before the optimizer's step."""
        due = self.step % self.tau == 0
        self.step += 1
        if not due:
            return
        own = [q for p in params for q in (p["params"] if isinstance(p, dict) else (p,)) if q.requires_grad]
        x = gather(own)
        mean = x.clone()
        dist.all_reduce(mean, group=self.process_group)
        mean.div_(self.workers)
        scatter(x.sub_((x - self.centre).mul_(self.alpha)), own)
        self.centre.add_((mean - self.centre).mul_(self.beta))


class Averaged:
    """An optimizer with a model averager: ``step`` in the training loop takes the optimizer's step and averages.

        averager = PeriodicModelAverager(period=8)               # torch's: local SGD; or HierarchicalModelAverager, or ElasticAverager
        descent = Averaged(model, optimizer, averager, Checkpoints("checkpoints", every=200))
        for step in range(descent.steps, total):                 # descent.steps > 0 after a resumption
            x, y = batches(rank, step)
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            descent.step()

    With checkpoints, a run that was interrupted goes on from the last one when it is made again: parameters and buffers, the optimizer, the
    averager and torch's random numbers on the cpu and on the model's device are bit for bit what they were. The data have to follow from
    the step (and from random numbers that the checkpoint holds).

    Args:
        model: the same on all processes.
        optimizer: over its parameters.
        averager: when it averages, and among whom.
        checkpoints: where; None for none.

    Raises:
        UsageError: with a single process, or for checkpoints of another run.
        LostPeerError: where another process is lost.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, averager: ModelAverager, checkpoints: Checkpoints | None = None) -> None:
        if dist.get_world_size() < 2:
            raise UsageError("there is one process, and nobody to average with: start two or more")
        self.model, self.optimizer, self.averager, self.checkpoints = model, optimizer, averager, checkpoints
        self.steps = 0
        self._resume()

    def step(self) -> None:
        """One step with the gradients in place.

        Raises:
            LostPeerError: where another process is lost; says which, and from where to go on.
        """
        elastic = isinstance(self.averager, ElasticAverager)
        if not elastic:
            self.optimizer.step()
        guarded(lambda: self.averager.average_parameters(self.optimizer.param_groups), self._hint())  # pyright: ignore[reportArgumentType]
        if elastic:
            self.optimizer.step()
        self.steps += 1
        kept = self.checkpoints
        if kept is not None and self.steps % kept.every == 0:
            guarded(lambda: kept.save(self.steps, self._state()), self._hint())

    def _hint(self) -> str:
        if self.checkpoints is None:
            return "start again; with Checkpoints the run would go on from the last one"
        return f"start the same command again to go on from the last checkpoint in {self.checkpoints.folder}"

    def _state(self) -> dict[str, Any]:
        device = next(self.model.parameters()).device
        return {
            "step": self.steps,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averager": self.averager.step,
            "centre": getattr(self.averager, "centre", None),
            "random": torch.get_rng_state(),
            "device_random": torch.get_device_module(device).get_rng_state(device) if device.type != "cpu" else None,
        }

    def _resume(self) -> None:
        state: Mapping[str, Any] | None = self.checkpoints.load() if self.checkpoints is not None else None
        if state is None:
            return
        device = next(self.model.parameters()).device
        self.steps = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averager.step = state["averager"]
        if isinstance(self.averager, ElasticAverager):
            self.averager.centre = state["centre"].to(device)
        torch.set_rng_state(state["random"])
        if state["device_random"] is not None:
            torch.get_device_module(device).set_rng_state(state["device_random"], device)
