"""Distributed descent in one process: the workers take their steps in simulated time, in an order that depends on nothing but the seed."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from steepest.distributed.delays import Constant, Delay, Exponential
from steepest.distributed.flat import gather, parts, scatter, set_gradients
from steepest.distributed.method import HELLO, Client, Message, Method, OptimizerFactory, Replies, Reply
from steepest.distributed.problem import OneByOne, Problem, Vectorised
from steepest.errors import UsageError

_STEP, _ARRIVAL, _ANSWER = range(3)


@dataclass(frozen=True)
class Moment:
    """What was measured in a run.

    Args:
        time: simulated.
        steps: gradients of all workers together so far.
        updates: of the centre so far.
        value: what ``evaluate`` returned.
    """

    time: float
    steps: int
    updates: int
    value: float


@dataclass(frozen=True, eq=False)
class Simulated:
    """A finished simulation.

    Args:
        parameters: the centre's, as one vector.
        locals: those of the workers.
        time: simulated, at the end; in a replay the number of exchanges.
        steps: gradients of all workers together.
        schedule: the worker of each message, in the order in which they took effect.
        staleness: of each update, how many others came since its worker had last seen the parameters.
        moments: what ``evaluate`` saw.
    """

    parameters: Tensor
    locals: tuple[Tensor, ...]
    time: float
    steps: int
    schedule: tuple[int, ...]
    staleness: tuple[int, ...]
    moments: tuple[Moment, ...]


class _Crew:
    """The workers' parameters, optimizers and gradients.

    A gradient is taken as late as possible, together with those of up to ``chunk`` other workers whose parameters are already settled: they
    are the parameters since the last exchange, whatever happens at the centre meanwhile. One vector of parameters per worker is held, and
    at most one of gradients.
    """

    def __init__(
        self, problem: Problem, method: Method, optimizer: OptimizerFactory | None, workers: int, vectorise: bool, chunk: int
    ) -> None:
        model = problem.parameters
        start = gather(model)
        self.problem, self.chunk = problem, chunk if vectorise else 1
        self.points = [start.clone() for _ in range(workers)]
        self.clients: list[Client] = []
        for point in self.points:
            own = [nn.Parameter(part) for part in parts(point, model)]
            self.clients.append(method.client(own, optimizer(own) if optimizer is not None else None))
        self.steps = [0] * workers
        self._evaluate = Vectorised(problem) if vectorise else OneByOne(problem)
        # In the order in which they became ready.
        self._ready: dict[int, None] = {}
        self._gradients: dict[int, Sequence[Tensor]] = {}

    def ready(self, worker: int) -> None:
        """The worker's parameters stay as they are until its step."""
        self._ready[worker] = None

    def begin(self, worker: int) -> Message | None:
        if worker not in self._gradients:
            del self._ready[worker]
            together = [worker]
            while self._ready and len(together) < self.chunk:
                other = next(iter(self._ready))
                del self._ready[other]
                together.append(other)
            batches = [self.problem.batches(w, self.steps[w]) for w in together]
            self._gradients.update(zip(together, self._evaluate([self.points[w] for w in together], batches), strict=True))
        client = self.clients[worker]
        set_gradients(self._gradients.pop(worker), client.parameters)
        self.steps[worker] += 1
        return client.begin()


def simulate(
    problem: Problem,
    method: Method,
    workers: int,
    *,
    steps: int = 0,
    optimizer: OptimizerFactory | None = None,
    service: Delay = Exponential(),  # noqa: B008 (frozen)
    latency: Delay = Constant(0.0),  # noqa: B008
    seed: int = 0,
    schedule: Sequence[int] | None = None,
    vectorise: bool = True,
    chunk: int = 256,
    evaluate: Callable[[nn.Module], float] | None = None,
    every: int = 1000,
    until: Callable[[float], bool] | None = None,
) -> Simulated:
    """Run a method with simulated workers.

    Each step of a worker takes a time drawn from ``service``; a message takes one from ``latency`` to the centre and another one back,
    while which the worker waits. The order is that of time, then of when an event was set. With ``schedule`` there is no time: the workers'
    exchanges take effect in that order, which is how a real run (``Served.schedule``) is replayed. With ``vectorise=False`` the parameters
    are then those of the real run on the same machine bit for bit, otherwise up to rounding.

    Args:
        problem: the model, its loss and the workers' batches; the model is left with the centre's parameters.
        method: ``Downpour``, ``DelayCompensated``, ``EASGD``, ``SynchronousEASGD``, ``LocalSGD``, ``BackupWorkers`` or ``Hogwild``.
        workers: at least 1.
        steps: gradients of all workers together after which the run ends; not with ``schedule``.
        optimizer: makes each worker's optimizer, where the method lets workers move by themselves.
        service: of each step.
        latency: of each message.
        seed: of both.
        schedule: workers, from 0, in the order of their exchanges; ~w where worker w leaves.
        vectorise: take gradients of many workers in one call.
        chunk: how many at most, which bounds the memory of activations.
        evaluate: called with the model at the centre's parameters, at the start, after every ``every`` steps and at the end.
        until: ends the run where it holds for a value of ``evaluate``.

    Raises:
        UsageError: for numbers out of their range, or a schedule with a worker that there is not.
    """
    if workers < 1 or chunk < 1 or every < 1:
        raise UsageError(f"workers is {workers}, chunk {chunk}, every {every}: each has to be at least 1")
    if (schedule is None) == (steps < 1):
        raise UsageError("give steps, the number of gradients to take, at least 1; or else a schedule to replay")
    if schedule is not None and not all(-workers <= w < workers for w in schedule):
        raise UsageError(f"the schedule names worker {max(w if w >= 0 else ~w for w in schedule)}: there are {workers}, from 0")
    return _Run(problem, method, workers, optimizer, vectorise, chunk, evaluate, every, until).go(steps, service, latency, seed, schedule)


class _Run:
    def __init__(
        self,
        problem: Problem,
        method: Method,
        workers: int,
        optimizer: OptimizerFactory | None,
        vectorise: bool,
        chunk: int,
        evaluate: Callable[[nn.Module], float] | None,
        every: int,
        until: Callable[[float], bool] | None,
    ) -> None:
        self.problem, self.workers = problem, workers
        self.crew = _Crew(problem, method, optimizer, workers, vectorise, chunk)
        self.own = [nn.Parameter(p.detach().clone()) for p in problem.parameters]
        self.centre = method.centre(self.own, workers)
        self.evaluate, self.every, self.until = evaluate, every, until
        self.schedule: list[int] = []
        self.moments: list[Moment] = []
        self.time, self.taken, self.ended = 0.0, 0, False

    def go(self, steps: int, service: Delay, latency: Delay, seed: int, schedule: Sequence[int] | None) -> Simulated:
        self._look()
        if schedule is None:
            self._by_time(steps, service, latency, seed)
        else:
            self._by_schedule(schedule)
        self._look()
        scatter(gather(self.own), self.problem.parameters)
        return Simulated(
            gather(self.own),
            tuple(self.crew.points),
            self.time,
            self.taken,
            tuple(self.schedule),
            tuple(self.centre.staleness),
            tuple(self.moments),
        )

    def _by_time(self, steps: int, service: Delay, latency: Delay, seed: int) -> None:
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2 * self.workers)]
        serve = [service.draws(s) for s in streams[::2]]
        travel = [latency.draws(s) for s in streams[1::2]]
        events: list[tuple[float, int, int, int, Message | Reply | None]] = []
        number = 0

        def later(after: float, kind: int, worker: int, what: Message | Reply | None = None) -> None:
            nonlocal number
            number += 1
            heapq.heappush(events, (self.time + after, number, kind, worker, what))

        def next_step(worker: int) -> None:
            self.crew.ready(worker)
            later(serve[worker](), _STEP, worker)

        for worker in range(self.workers):
            self._answer(self._handle(worker, HELLO), lambda w, reply: self.crew.clients[w].start(reply))
            next_step(worker)
        while events:
            self.time, _, kind, worker, what = heapq.heappop(events)
            if kind == _STEP:
                if self.taken == steps or self._over():
                    break
                message = self._begin(worker)
            elif kind == _ARRIVAL:
                assert isinstance(what, Message)
                for w, reply in self._handle(worker, what):
                    later(travel[w](), _ANSWER, w, reply)
                continue
            else:
                assert isinstance(what, Reply)
                message = self.crew.clients[worker].finish(what)
            if message is not None:
                later(travel[worker](), _ARRIVAL, worker, message)
                continue
            if kind == _STEP:
                self.crew.clients[worker].finish(None)
            next_step(worker)

    def _by_schedule(self, schedule: Sequence[int]) -> None:
        started: set[int] = set()
        pending: dict[int, Message] = {}

        def receive(worker: int, reply: Reply) -> None:
            message = self.crew.clients[worker].finish(reply)
            if message is None:
                self.crew.ready(worker)
            else:
                pending[worker] = message

        def start(worker: int, reply: Reply) -> None:
            self.crew.clients[worker].start(reply)
            self.crew.ready(worker)

        for worker in schedule:
            self.time += 1.0
            if worker < 0:
                self._answer(self.centre.leave(~worker), receive)
                continue
            if worker not in started:
                started.add(worker)
                self._answer(self._handle(worker, HELLO), start)
                continue
            message = pending.pop(worker, None)
            while message is None:
                if self._over():
                    return
                message = self._begin(worker)
                if message is None:
                    self.crew.clients[worker].finish(None)
                    self.crew.ready(worker)
            self._answer(self._handle(worker, message), receive)

    def _over(self) -> bool:
        """Whether what is measured now, where that is due, ends the run."""
        if self.taken % self.every == 0:
            self._look()
        return self.ended

    def _begin(self, worker: int) -> Message | None:
        self.taken += 1
        return self.crew.begin(worker)

    def _handle(self, worker: int, message: Message) -> Replies:
        self.schedule.append(worker)
        return self.centre.handle(worker, message)

    @staticmethod
    def _answer(replies: Replies, receive: Callable[[int, Reply], None]) -> None:
        for worker, reply in replies:
            receive(worker, reply)

    def _look(self) -> None:
        """Measure the model at the centre's parameters, once per number of steps."""
        if self.evaluate is None or (self.moments and self.moments[-1].steps == self.taken):
            return
        scatter(gather(self.own), self.problem.parameters)
        with torch.no_grad():
            value = float(self.evaluate(self.problem.model))
        self.moments.append(Moment(self.time, self.taken, self.centre.version, value))
        self.ended = self.until is not None and self.until(value)
        if not math.isfinite(value):
            self.ended = True
