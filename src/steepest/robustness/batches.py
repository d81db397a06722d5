"""Batches of inputs as jobs: what decides their outcome, where they run, and how they are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from steepest import jobs
from steepest.numerics.threads import threads
from steepest.proofs.certificate import versions
from steepest.results.certification import CertifiedInput
from steepest.results.domain import NORM_NAMES, norm_from_name, number_from_json, number_to_json
from steepest.results.record import array_digest
from steepest.robustness.batch import Batch, certify_batch
from steepest.robustness.constant import GlobalConstant
from steepest.robustness.everywhere import Constant

Found = tuple[CertifiedInput, ...]


@dataclass(frozen=True, eq=False)
class BatchJob:
    """A batch, with the sha256 of network, inputs, labels and options."""

    batch: Batch
    digest: str

    @staticmethod
    def of(batch: Batch, network: str) -> BatchJob:
        """A batch of a network of that digest."""
        outline = {
            "network": network,
            "x": array_digest(batch.x.numpy()),
            "first": batch.first,
            "labels": batch.labels,
            "norm": NORM_NAMES[batch.norm],
            "effort": asdict(batch.effort),
            "seed": batch.seed,
            "constant": None if batch.constant is None else [batch.constant.node, batch.constant.bound],
            "version": versions()["steepest"],
        }
        return BatchJob(batch, _digest(outline))


def run_batch(job: BatchJob) -> Found:
    """Certify a batch on one thread."""
    with threads(1):
        return certify_batch(job.batch)


@dataclass
class BatchRunner(jobs.Runner[BatchJob, Found]):
    """Certifies batches."""

    noun: ClassVar[str] = "batch"
    plural: ClassVar[str] = "batches"

    def work(self) -> Callable[[BatchJob], Found]:
        """On one thread."""
        return run_batch

    def here(self, job: BatchJob) -> Found:
        """On all threads of this process."""
        return certify_batch(job.batch)


@dataclass(frozen=True)
class BatchStore(jobs.Store[BatchJob, Found]):
    """Batches on disk."""

    format: ClassVar[str] = "steepest-radii-batch/1"

    def encode(self, job: BatchJob, result: Found) -> dict[str, Any]:
        """The inputs."""
        return {"inputs": [one.to_json() for one in result]}

    def decode(self, content: Mapping[str, Any]) -> Found:
        """The inputs again."""
        return tuple(CertifiedInput.from_json(one) for one in content["inputs"])


@dataclass(frozen=True)
class ConstantJob:
    """The constant over all inputs, by what decides it."""

    network: str
    norm: float
    effort: str

    @property
    def digest(self) -> str:
        """sha256 of these."""
        outline = {"network": self.network, "norm": NORM_NAMES[self.norm], "effort": self.effort, "version": versions()["steepest"]}
        return _digest(outline)


@dataclass(frozen=True)
class ConstantStore(jobs.Store[ConstantJob, Constant]):
    """Constants on disk."""

    format: ClassVar[str] = "steepest-radii-constant/1"

    def encode(self, job: ConstantJob, result: Constant) -> dict[str, Any]:
        """The bound and its certificate."""
        source = result.source
        bound = number_to_json(source.bound)
        return {"node": source.node, "bound": bound, "norm": NORM_NAMES[source.p], "certificate": result.certificate}

    def decode(self, content: Mapping[str, Any]) -> Constant:
        """The same again."""
        source = GlobalConstant(int(content["node"]), number_from_json(content["bound"]), norm_from_name(content["norm"]))
        return Constant(source, content["certificate"])


def _digest(outline: Mapping[str, Any]) -> str:
    """sha256 of JSON."""
    return hashlib.sha256(json.dumps(outline, sort_keys=True).encode()).hexdigest()
