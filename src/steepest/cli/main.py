"""The entry point: commands, and how errors become messages and exit codes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import typer

from steepest.cli.audit import audit
from steepest.cli.bound import bound
from steepest.cli.certify import certify
from steepest.cli.check import check
from steepest.cli.diagnose import diagnose
from steepest.cli.explain import explain
from steepest.cli.race import race
from steepest.cli.report import report
from steepest.cli.study import study
from steepest.errors import SoundnessError, SteepestError

app = typer.Typer(
    name="steepest",
    help="How steep is a network, and how do you descend it? Proven Lipschitz brackets, diagnosis of training, descent methods compared.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(audit)
app.command()(bound)
app.command()(certify)
app.command()(check)
app.command()(explain)
app.command()(diagnose)
app.command()(race)
app.command()(report)
app.command()(study)

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "bad_alloc")


def main() -> None:
    """Run the command line; every expected failure is one message on stderr and its exit code."""
    try:
        app()
    except SoundnessError as error:
        _fail(f"{error}. Please report it with {_save_replay(error)}, which holds all that is needed to see it again.", error.exit_code)
    except SteepestError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of stdout left; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
            _fail("out of memory: ask for one output (--output I), a smaller batch of data, or a machine with more memory", 4)
        if os.environ.get("STEEPEST_DEBUG"):
            raise
        _fail(f"a bug in steepest: {type(error).__name__}: {error} (STEEPEST_DEBUG=1 shows where)", 70)


def _fail(message: str, code: int) -> None:
    print(f"steepest: {message}", file=sys.stderr)
    sys.exit(code)


def _save_replay(error: SoundnessError) -> Path:
    path = Path(f"steepest-contradiction-{os.getpid()}.json")
    path.write_text(json.dumps(error.replay, allow_nan=False))
    return path


if __name__ == "__main__":
    main()
