"""The race between the classical methods, over seeds of the protocol, and a performance profile over four tasks.

    OMP_NUM_THREADS=1 python benchmarks/race.py [--jobs 2] [--folder build/race] [-o benchmarks/results/race.md]

Races and trials that are in the folder are not run again.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import steepest
from steepest.report.measured import interval_text, plain_text, steps_text
from steepest.results.study import Interval

OPTIMIZERS = ("sgd", "nesterov", "adam", "adamw", "rmsprop", "adagrad")
TASKS = ("digits_mlp", "autoencoder", "logistic", "quadratic")


def cpu() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def raced(folder: Path, name: str, tasks: Sequence[str], jobs: int, seed: int, trials: int = 24, seeds: int = 10) -> dict[str, Any]:
    """The JSON of a race, with the processor seconds of the trials that were not there; from the folder where it is there."""
    path = folder / f"{name}.json"
    if not path.exists():
        started = cpu()
        result = steepest.race(tasks, optimizers=OPTIMIZERS, trials=trials, seeds=seeds, seed=seed, jobs=jobs, folder=folder / "trials")
        path.write_text(json.dumps({**result.to_json(), "cpu": cpu() - started}))
        print(f"{name}: {cpu() - started:.0f} s", flush=True)
    return json.loads(path.read_text())


def interval(content: Mapping[str, Any]) -> Interval:
    return Interval(*(float(content[key]) for key in ("value", "low", "high")))


def row(head: str, e: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {value:.4g}" for key, value in e["chosen"].items())
    cells = [
        head,
        e["method"],
        interval_text(interval(e["steps"]), steps_text),
        f"{e['misses']} of {len(e['runs'])}",
        interval_text(interval(e["best"])),
        e["against"]["standing"],
        options,
    ]
    return "| " + " | ".join(cells) + " |"


def share_within(profile: Mapping[str, Any], factor: float) -> float:
    return max((y for x, y in zip(profile["x"], profile["y"], strict=True) if x <= factor), default=0.0)


def table(heading: str, contests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    lines = [f"| {heading} | method | steps to target | misses | best value | against momentum | chosen |", "|---|---|---|---|---|---|---|"]
    return lines + [row(head, e) for head, contest in contests for e in contest["entries"]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Races over seeds and tasks.")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the protocol")
    parser.add_argument("--trials", type=int, default=24, help="of the race over tasks")
    parser.add_argument("--fresh", type=int, default=10, help="fresh seeds of the race over tasks")
    parser.add_argument("--folder", type=Path, default=Path("build/race"), help="where finished races are kept")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "race.md")
    options = parser.parse_args()
    seeds = options.seeds
    by_seed = {seed: raced(options.folder, f"seed-{seed}", ["digits_mlp"], options.jobs, seed=seed) for seed in seeds}
    profile = raced(options.folder, "tasks", TASKS, options.jobs, seed=0, trials=options.trials, seeds=options.fresh)
    seconds = ", ".join(f"{by_seed[s]['cpu']:.0f}" for s in seeds)
    targets = ", ".join(plain_text(float(by_seed[s]["contests"][0]["target"])) for s in seeds)
    factors = (1.0, 1.5, 2.0, 4.0)
    profiles = sorted(profile["profiles"], key=lambda p: -share_within(p, 2.0))
    lines = [
        "# Races",
        "",
        f"By `make bench-race`: constant rates, torch {profile['versions']['torch']}. "
        "Medians with 95 % bootstrap intervals; a run that misses the target counts as infinite.",
        "",
        f"## `steepest race digits_mlp --optimizers {','.join(OPTIMIZERS)} --seed N`",
        "",
        f"24 trials of 300 steps per method, 10 fresh seeds. Seeds of the protocol {', '.join(map(str, seeds))}: "
        f"targets {targets}, validation cross-entropy; "
        f"{seconds} processor seconds, start of the processes included.",
        "",
        *table("seed", [(str(s), by_seed[s]["contests"][0]) for s in seeds]),
        "",
        "## Four tasks",
        "",
        f"Seed 0, {options.trials} trials per method, {options.fresh} fresh seeds. "
        + "; ".join(f"{c['name']}: target {plain_text(float(c['target']))}, {c['measure']}" for c in profile["contests"])
        + ".",
        "",
        *table("task", [(c["name"], c) for c in profile["contests"]]),
        "",
        "Performance profile: the share of the four tasks that a method solves within a factor of the fastest method's median steps.",
        "",
        "| method | " + " | ".join(f"within {f:g}" for f in factors) + " | at all |",
        "|---|" + "---|" * (len(factors) + 1),
        *(
            f"| {p['name']} | " + " | ".join(f"{share_within(p, f):.0%}" for f in factors) + f" | {max(p['y'], default=0.0):.0%} |"
            for p in profiles
        ),
        "",
        *(f"Note: {note}.\n" for note in profile["notes"]),
    ]
    options.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
