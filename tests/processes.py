"""Runs functions as the ranks of a process group, in processes that are gone afterwards."""

import multiprocessing
import os
import pickle
import signal
import socket
import time
from datetime import timedelta

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "steepest.distributed"])
LIMIT = 300.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(target, rank, size, port, results, arguments, timeout):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    try:
        value = target(rank, *arguments)
    except Exception as error:
        value = error
    # Tensors by value: those in shared memory are gone with the process that sent them.
    results.put((rank, pickle.dumps(value)))
    # A worker that stays until the others have finished would hide what their leaving does.
    if not isinstance(value, Exception):
        dist.destroy_process_group()


def run(target, size, *arguments, killed=(), timeout=150.0):
    """What ``target(rank, *arguments)`` returned or raised, by rank; ranks in ``killed`` end themselves by ``die``."""
    results = CONTEXT.Queue()
    port = free_port()
    processes = [
        CONTEXT.Process(target=_rank, args=(target, rank, size, port, results, arguments, timeout), daemon=True) for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = {}
    try:
        deadline = time.monotonic() + LIMIT
        while len(found) < size - len(killed):
            rank, value = results.get(timeout=max(deadline - time.monotonic(), 0.1))
            found[rank] = pickle.loads(value)
        for process in processes:
            process.join(30.0)
            assert not process.is_alive()
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    for rank in killed:
        assert processes[rank].exitcode == -signal.SIGKILL
    return found


def die():
    os.kill(os.getpid(), signal.SIGKILL)
