"""Asynchronous and distributed descent: between processes (``join``, ``share``, ``Averaged``), and simulated in one (``simulate``)."""

from steepest.distributed.averaging import Averaged as Averaged
from steepest.distributed.averaging import ElasticAverager as ElasticAverager
from steepest.distributed.checkpoints import Checkpoints as Checkpoints
from steepest.distributed.compensated import DelayCompensated as DelayCompensated
from steepest.distributed.delayed import delayed_descent as delayed_descent
from steepest.distributed.delays import Constant as Constant
from steepest.distributed.delays import Exponential as Exponential
from steepest.distributed.delays import Geometric as Geometric
from steepest.distributed.delays import Heterogeneous as Heterogeneous
from steepest.distributed.delays import Stragglers as Stragglers
from steepest.distributed.delays import Uniform as Uniform
from steepest.distributed.delays import delay as delay
from steepest.distributed.downpour import Downpour as Downpour
from steepest.distributed.elastic import EASGD as EASGD
from steepest.distributed.hogwild import Hogwild as Hogwild
from steepest.distributed.hogwild import share as share
from steepest.distributed.lost import LostPeerError as LostPeerError
from steepest.distributed.member import Served as Served
from steepest.distributed.member import Server as Server
from steepest.distributed.member import Worker as Worker
from steepest.distributed.member import join as join
from steepest.distributed.problem import Problem as Problem
from steepest.distributed.problem import Shuffled as Shuffled
from steepest.distributed.rounds import BackupWorkers as BackupWorkers
from steepest.distributed.rounds import LocalSGD as LocalSGD
from steepest.distributed.rounds import SynchronousEASGD as SynchronousEASGD
from steepest.distributed.simulator import Simulated as Simulated
from steepest.distributed.simulator import simulate as simulate

__all__ = [
    "EASGD",
    "Averaged",
    "BackupWorkers",
    "Checkpoints",
    "Constant",
    "DelayCompensated",
    "Downpour",
    "ElasticAverager",
    "Exponential",
    "Geometric",
    "Heterogeneous",
    "Hogwild",
    "LocalSGD",
    "LostPeerError",
    "Problem",
    "Served",
    "Server",
    "Shuffled",
    "Simulated",
    "Stragglers",
    "SynchronousEASGD",
    "Uniform",
    "Worker",
    "delay",
    "delayed_descent",
    "join",
    "share",
    "simulate",
]
