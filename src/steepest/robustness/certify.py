"""Certified radii and attacks for all inputs of a data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from steepest.errors import LimitError
from steepest.graph import Graph
from steepest.jobs import Progress, require_same
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import RadiusClaim, versions, write_radii
from steepest.results.certification import Certification, CertifiedInput
from steepest.results.domain import NORM_NAMES
from steepest.results.record import array_digest
from steepest.robustness.batch import EFFORTS, NONE, Batch, together
from steepest.robustness.batches import BatchJob, BatchRunner, BatchStore, ConstantJob, ConstantStore
from steepest.robustness.decisions import scores
from steepest.robustness.everywhere import Constant, find_constant


@dataclass(frozen=True)
class Certifying:
    """Certifies a classifier at inputs.

    Args:
        norm: 1, 2 or inf, of perturbations.
        effort: its name in ``EFFORTS``.
        seed: of the attacks.
        inputs: how many are done, from the first; None: all.
        time_limit: seconds for the whole, or None; inputs that are not reached are left out.
        folder: keeps every finished batch, and takes up those that are there; None: nothing is kept.
        fresh: forget what is in the folder.
        executor: makes what the batches run on; None: this process.
        progress: told of each stage.
        stop: once asked, the run ends with the inputs that are done.
    """

    norm: float = 2.0
    effort: str = "normal"
    seed: int = 0
    inputs: int | None = None
    time_limit: float | None = None
    folder: Path | None = None
    fresh: bool = False
    executor: Callable[[], Executor] | None = None
    progress: Progress = lambda stage, fraction: None
    stop: Deadline = field(default_factory=Deadline)

    def run(self, graph: Graph, x: Tensor, y: Tensor | None, radius: float | None, name: str, data: str) -> Certification:
        """Certify a classifier.

        Args:
            graph: its answer is the position of the largest entry of its flattened output.
            x: ``[n, *input_shape]``, float64.
            y: ``[n]`` int64, labels, or None.
            radius: at which accuracies are told; None takes a round number near the median certified radius.
            name: what people call the network.
            data: what people call the data.

        Raises:
            UsageError: for a network with a single output, and for a folder of another run.
            SoundnessError: where an attack contradicts a radius.
        """
        started = time.perf_counter()
        stop = self.stop if self.time_limit is None else self.stop.within(self.time_limit)
        kept, record = scores(graph), graph.record()
        self._require_own(record.digest, x, y)
        count = len(x) if self.inputs is None else min(self.inputs, len(x))
        constant = self._constant(kept, record.digest, x, stop)
        jobs = self._jobs(kept, record.digest, x[:count], y, constant)
        store = None if self.folder is None else BatchStore(self.folder)
        runner = BatchRunner(self.executor, store, stop, self.progress, len(jobs))
        try:
            runner.run(jobs, "certified radii")
        except LimitError:
            # What is done is told; the number of inputs says that some are missing.
            pass
        finally:
            runner.close()
        done = [one for job in jobs for one in runner.finished.get(job.digest, ())]
        return Certification(
            name=name,
            digest=record.digest,
            norm=NORM_NAMES[self.norm],
            radius=_round_radius(done) if radius is None else radius,
            inputs=tuple(done),
            asked=count,
            constant=None if constant is None else constant.source.bound,
            data=data,
            effort=self.effort,
            seconds=time.perf_counter() - started,
            versions=versions(),
            certificate=write_radii(record, self.norm, self._claims(done, x), _proof(constant)),
        )

    def _require_own(self, network: str, x: Tensor, y: Tensor | None) -> None:
        if self.folder is None:
            return
        facts = {
            "model": network,
            "data": array_digest(x.numpy()),
            "labels": "none" if y is None else array_digest(y.numpy()),
            "norm": NORM_NAMES[self.norm],
            "effort": self.effort,
            "seed": str(self.seed),
            "version": versions()["steepest"],
        }
        require_same(self.folder, facts, self.fresh)
        if self.fresh:
            BatchStore(self.folder).clear()

    def _constant(self, graph: Graph, network: str, x: Tensor, stop: Deadline) -> Constant | None:
        job = ConstantJob(network, self.norm, self.effort)
        store = None if self.folder is None else ConstantStore(self.folder)
        found = None if store is None else store.read(job)
        if found is None:
            self.progress("a constant over all inputs", None)
            found = find_constant(graph, x, self.norm, EFFORTS[self.effort].constant, stop)
            if store is not None and not stop.passed():
                store.write(job, found)
        return found if math.isfinite(found.source.bound) else None

    def _jobs(self, graph: Graph, network: str, x: Tensor, y: Tensor | None, constant: Constant | None) -> list[BatchJob]:
        source, step = None if constant is None else constant.source, together(graph)
        batches = [
            Batch(
                graph,
                x[first : first + step],
                first,
                None if y is None else tuple(y[first : min(first + step, len(x))].tolist()),
                self.norm,
                EFFORTS[self.effort],
                self.seed,
                source,
            )
            for first in range(0, len(x), step)
        ]
        return [BatchJob.of(batch, network) for batch in batches]

    def _claims(self, done: list[CertifiedInput], x: Tensor) -> list[RadiusClaim]:
        work = EFFORTS[self.effort].work
        return [RadiusClaim(i.index, x[i.index].numpy(), i.answer, i.radius, i.source, work) for i in done if i.source != NONE]


def _proof(constant: Constant | None) -> tuple[int, dict[str, object] | None] | None:
    """For the certificate; a constant may have helped other sources with some of the classes."""
    return None if constant is None else (constant.source.node, constant.certificate)


def _round_radius(done: list[CertifiedInput]) -> float:
    """A round number near the median certified radius; zero where half of the inputs have none."""
    ordered = sorted(i.radius for i in done)
    return float(f"{ordered[(len(ordered) - 1) // 2]:.1g}") if ordered else 0.0
