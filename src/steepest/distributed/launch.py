"""Start a script as several processes on this machine, of which one may die without the others being stopped.

    python -m steepest.distributed.launch -n 4 train.py --its-options

The environment is that of torchrun (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). torchrun ends all processes as soon as one
fails, which synchronous methods want, and asynchronous ones do not.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence


def launch(command: Sequence[str], processes: int) -> list[int]:
    """Run the command as ranks 0 to ``processes - 1``; wait for all.

    Where rank 0 ends before the others, they have a minute to end as well, then they are stopped. An interruption stops all.

    Returns:
        The exit codes by rank; negative for the signal that killed a process.
    """
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    running = [subprocess.Popen(list(command), env=environment | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(processes)]
    reported: set[int] = set()
    deadline: float | None = None
    try:
        while any(p.poll() is None for p in running):
            for rank, p in enumerate(running):
                if p.returncode and rank not in reported:
                    reported.add(rank)
                    how = f"was killed by {signal.Signals(-p.returncode).name}" if p.returncode < 0 else f"failed with code {p.returncode}"
                    print(f"rank {rank} {how}", file=sys.stderr, flush=True)
            if running[0].returncode is not None and deadline is None:
                deadline = time.monotonic() + 60.0
            if deadline is not None and time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        _stop(running)
    return [p.returncode for p in running]


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for p in running:
        if p.poll() is None:
            p.terminate()
    for p in running:
        try:
            p.wait(10.0)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """The command line; exits with rank 0's code."""
    parser = argparse.ArgumentParser(prog="python -m steepest.distributed.launch", description="Start a script as several processes.")
    parser.add_argument("-n", "--processes", type=int, required=True, help="how many, rank 0 included")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.processes < 2:
        parser.error(f"-n is {options.processes}: a run needs at least two processes")
    codes = launch([sys.executable, options.script, *options.arguments], options.processes)
    sys.exit(codes[0] if codes[0] >= 0 else 128 - codes[0])


if __name__ == "__main__":
    main()
