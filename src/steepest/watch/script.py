"""Runs a Python script under observation, as ``python SCRIPT.py`` would run it."""

from __future__ import annotations

import builtins
import os
import sys
import threading
import types
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

from steepest.errors import UsageError
from steepest.probes.probe import Probe
from steepest.results.diagnosis import Ending
from steepest.watch.hooks import INVISIBLE
from steepest.watch.run import WatchedRun
from steepest.watch.schedule import Schedule
from steepest.watch.watching import watch

_OURS = str(Path(__file__).resolve().parent) + os.sep
_INTERRUPTED = 130

# What the scripts left behind outlives them: threads and exit handlers may still need their globals.
_modules: list[types.ModuleType] = []


@dataclass(frozen=True)
class ScriptRun:
    """A script that was run.

    Args:
        run: what was seen of it.
        ending: how it ended.
        exit_code: what ``python SCRIPT.py`` would have returned.
    """

    run: WatchedRun
    ending: Ending
    exit_code: int


def run_script(
    script: str | Path,
    arguments: Sequence[str] = (),
    probes: Sequence[Probe] | None = None,
    schedule: Schedule | None = None,
    curvature: bool = False,
    convergence: bool = False,
) -> ScriptRun:
    """Run a script as ``__main__`` in this process, with its own ``sys.argv`` and ``sys.path[0]``, and watch what it trains.

    The script's output, exit code, traceback and random numbers are its own. What differs: torch and numpy are imported before it
    starts, so environment variables that these read at import (``OMP_NUM_THREADS``) have to be set outside.

    Args:
        script: a Python file.
        arguments: its command line.
        probes, schedule, curvature, convergence: as in ``watch``.

    Raises:
        UsageError: for a file that is missing or is no Python.
    """
    path = str(script)
    code = _compile(path)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=os.path.abspath(path),
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", os.path.abspath(path)),
        __annotations__={},
        __cached__=None,
    )
    _modules.append(main)
    process = os.getpid()
    with watch(probes, schedule=schedule, curvature=curvature, convergence=convergence) as run, _as_main(main, path, arguments):
        error: BaseException | None = None
        try:
            exec(code, main.__dict__)
        except BaseException as caught:
            error = caught
        exit_code = _exit_code(error)
        error_kind = type(error)
        del error
        if os.getpid() != process:
            # A child that the script forked has come to its end.
            sys.exit(exit_code)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    return ScriptRun(run, _ending(run, error_kind), exit_code)


def _compile(path: str) -> types.CodeType:
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder: give the script to run")
    try:
        source = Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no script {path}") from None
    except OSError as error:
        raise UsageError(f"the script {path} cannot be read: {error.strerror}") from None
    try:
        return compile(source, os.path.abspath(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = "" if error.lineno is None else f", line {error.lineno}"
        raise UsageError(f"{path} is not a Python script: {error.msg}{where}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not a Python script: {error}") from None


@contextmanager
def _as_main(main: types.ModuleType, path: str, arguments: Sequence[str]) -> Generator[None]:
    """Make a module ``__main__``, with the command line and the search path that ``python`` gives it."""
    before, argv, search = sys.modules["__main__"], sys.argv, sys.path
    sys.modules["__main__"], sys.argv = main, [path, *arguments]
    # -P and PYTHONSAFEPATH: python itself then leaves the folder of the script out.
    sys.path = list(search) if sys.flags.safe_path else [os.path.dirname(os.path.realpath(path)), *search[1:]]
    try:
        yield
    finally:
        sys.modules["__main__"], sys.argv, sys.path = before, argv, search


def _exit_code(error: BaseException | None) -> int:
    """What Python would return after an uncaught exception, once it has been shown as Python shows it."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    _hide(error, set())
    sys.excepthook(type(error), error, error.__traceback__)
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _hide(error: BaseException | None, seen: set[int]) -> None:
    """Take our own frames out of a traceback, and out of those it is chained to."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    kept = [tb for tb in _frames(error.__traceback__) if not _ours(tb.tb_frame.f_code.co_filename)]
    below: types.TracebackType | None = None
    for tb in reversed(kept):
        below = types.TracebackType(below, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
    error.__traceback__ = below
    _hide(error.__cause__, seen)
    _hide(error.__context__, seen)
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            _hide(inner, seen)


def _frames(traceback: types.TracebackType | None) -> Generator[types.TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _ours(filename: str) -> bool:
    return filename == INVISIBLE or filename.startswith(_OURS)


def _ending(run: WatchedRun, error: type) -> Ending:
    if issubclass(error, KeyboardInterrupt):
        return Ending.INTERRUPTED
    if run.backwards == 0:
        if error is type(None):
            return Ending.NO_BACKWARD
        return Ending.EXITED_EARLY if issubclass(error, SystemExit) else Ending.CRASHED_EARLY
    if error is not type(None) and not issubclass(error, SystemExit):
        return Ending.CRASHED
    return Ending.NO_STEP if run.steps == 0 else Ending.TRAINED
