"""Independent jobs: run here, in processes or on a cluster; finished ones kept on disk, lost ones run again."""

from steepest.jobs.manifest import require_same
from steepest.jobs.runner import Progress, Runner
from steepest.jobs.store import Store
from steepest.jobs.workers import cluster, local, workers

__all__ = ["Progress", "Runner", "Store", "cluster", "local", "require_same", "workers"]
