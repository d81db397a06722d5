"""The verdicts of the monitor of Adam-type methods beside what becomes of the runs, on ``tests/monitors/held_out.py``.

    OMP_NUM_THREADS=1 python benchmarks/verdicts.py [--every 20] [--part 0] [--dense 256] [-o FILE.md]

Part 0 is what the rule was made on, each later part was looked at once the rule was fixed on those before. All cases take about an hour on
one core, each twentieth some minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from monitors.held_out import HORIZONS, Fate, cases, score
from steepest.results.convergence import Verdict

WORDS = {Verdict.MET: "met", Verdict.FAILED: "failed"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", type=int, choices=(0, 1, 2), action="append")
    parser.add_argument("--every", type=int, default=20, help="take each so-manyth case; 1 for all")
    parser.add_argument("--dense", type=int, default=256, help="steps that the monitor looks at in a window, a power of two from 16")
    parser.add_argument("-o", "--output", type=Path, help="a file for the table, beside the screen")
    options = parser.parse_args()
    if options.every < 1:
        parser.error(f"--every is {options.every}: give at least 1")
    torch.set_num_threads(1)
    lines = [TITLE.format(which="all cases" if options.every == 1 else f"one case in {options.every}", dense=options.dense), HEAD]
    print(HEAD)
    for part in options.part or (0, 1, 2):
        counts: Counter[tuple[str, Fate, str]] = Counter()
        for case in list(cases(part))[:: options.every]:
            found = score(case, dense=options.dense)
            for report, fate in zip(found.reports[HORIZONS[-1]], found.fates, strict=True):
                counts[case.family, fate, WORDS.get(report.verdict, "open")] += 1
        for line in rows(part, counts):
            print(line, flush=True)
            lines.append(line)
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n")


TITLE = """# Verdicts of the monitor of Adam-type methods beside what becomes of the runs

By `benchmarks/verdicts.py`, {which}, {dense} steps looked at in a window. Verdicts after 1,023 steps with recorded losses. "open" is
"not guaranteed".
"""

HEAD = """| part | problems | runs | converge, or fall slowly: met / open / failed | stay at a level: met / open / failed | \
move away: met / open / failed |
|---|---|---|---|---|---|"""


def rows(part: int, counts: Counter[tuple[str, Fate, str]]) -> list[str]:
    """Lines of the table, one for each family."""
    lines = []
    for family in dict.fromkeys(family for family, _, _ in counts):
        cells = []
        for fates in ((Fate.CONVERGES, Fate.SLOWLY), (Fate.STAYS,), (Fate.AWAY,)):
            cells.append(" / ".join(f"{sum(counts[family, fate, word] for fate in fates):,}" for word in ("met", "open", "failed")))
        runs = sum(n for (name, _, _), n in counts.items() if name == family)
        lines.append(f"| {part} | {family} | {runs:,} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
