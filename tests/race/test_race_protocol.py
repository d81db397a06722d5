"""The protocol: equal budgets, targets, paired seeds, ranks, drawings."""

import json
import math

import pytest

import steepest
from race_tasks import SEEN, empty, tiny
from steepest.errors import ModelError, UsageError
from steepest.optim.catalogue import find
from steepest.race import Task
from steepest.race.contest import compare
from steepest.results.race import Evaluation, RacedTrial, Standing


def _race(task=None, **options):
    return steepest.race(task or tiny(), **{"optimizers": ["sgd", "adam"], "trials": 5, "seeds": 3, **options})


def test_every_method_gets_the_same_budget_and_the_same_seeds():
    result = _race()
    (contest,) = result.contests
    assert {e.method for e in contest.entries} == {"sgd", "adam", "momentum"}
    assert {e.method: e.asked for e in contest.entries} == {"sgd": True, "adam": True, "momentum": False}
    assert {len(e.tuning) for e in contest.entries} == {5} and {len(e.budget) for e in contest.entries} == {5}
    seeds = {tuple(r.seed for r in e.runs) for e in contest.entries}
    assert len(seeds) == 1 and len(set(*seeds)) == 3
    first = {e.method: find(e.method).rate(e.tuning[0].point) for e in contest.entries}
    assert 10 * first["sgd"] == pytest.approx(first["momentum"], rel=1e-3)


def test_tuning_target_and_race_have_seeds_of_their_own():
    from steepest.race.protocol import Racing

    racing = Racing(seed=3)
    seeds = [racing._seed(kind, k) for kind in range(3) for k in range(20)]
    assert len(set(seeds)) == 60
    assert seeds[0] != Racing(seed=4)._seed(0)


def test_figures_follow_from_the_runs():
    (contest,) = _race().contests
    assert contest.target is not None and "in three quarters of the steps on 3 of 3 seeds" in contest.target_from
    order = [(e.steps.value, e.misses, e.best.value) for e in contest.entries]
    assert order == sorted(order)
    for e in contest.entries:
        assert e.misses == sum(math.isinf(r.steps) for r in e.runs)
        assert (e.steps.low <= e.steps.value <= e.steps.high) and (e.best.low <= e.best.value <= e.best.high)
        assert all((r.best <= contest.target) == (r.steps < math.inf) for r in e.runs)
        assert e.budget[-1] == min(t.best for t in e.tuning) and list(e.budget) == sorted(e.budget, reverse=True)
        assert e.chosen in [t.point for t in e.tuning]
        centre = [t for t in e.rates if t.point == e.chosen]
        assert len(e.rates) == 9 and len(centre) == 1
    reference = next(e for e in contest.entries if e.method == "momentum")
    assert reference.against.standing is Standing.REFERENCE and reference.against.difference.value == 0


def test_the_same_seed_gives_the_same_race():
    def bare(result):
        content = result.to_json()
        content.pop("seconds")
        for contest in content["contests"]:
            for e in contest["entries"]:
                e.pop("seconds")
                for run in e["runs"]:
                    run.pop("seconds")
        return content

    assert bare(_race()) == bare(_race())
    assert bare(_race(seed=1)) != bare(_race())


def test_the_json_has_no_nan_or_infinity():
    result = _race(tiny(target=1e-30))
    assert all(e.misses == 3 and e.steps.value == math.inf for e in result.contests[0].entries)
    content = json.dumps(result.to_json(), allow_nan=False)
    assert '"inf"' in content and result.contests[0].target_from == "given by the task"


def test_landscapes_are_drawn_and_not_ranked():
    result = _race("saddle", optimizers=["adam", "sgd"])
    (contest,) = result.contests
    assert not contest.ranked and contest.target is None and [e.method for e in contest.entries] == ["adam", "sgd"]
    assert result.profiles == ()
    for e in contest.entries:
        assert e.path[0] == (1.0, 1e-3) and len(e.path) == 151 and e.steps is None


def test_profiles_are_over_tasks_when_there_are_several():
    result = _race([tiny(), empty()], seeds=3)
    assert result.problems.startswith("2 tasks") and {p.name for p in result.profiles} == {"sgd", "adam", "momentum"}
    assert all(share in (0.0, 0.5, 1.0) for p in result.profiles for share in p.y)
    assert _race(seeds=3).problems == "the 3 seeds of tiny"


def test_a_faster_method_ranks_first():
    """Exact gradients on |x|^2 / 2: gradient descent with rate 1 is there in one step, a rate of 1e-3 in thousands."""
    (contest,) = _race(empty(), optimizers=["sgd"], trials=24).contests
    assert contest.entries[0].steps.value < 10


def _trial(method, seed, best, steps):
    return RacedTrial(method, {}, seed, (Evaluation(0, 0.0, 9.0, math.nan), Evaluation(steps, 0.1, best, 1.0)))


def test_comparisons_are_paired():
    hard = [5.0, 1.0, 3.0, 2.0, 4.0]
    reference = [_trial("momentum", k, v, 10) for k, v in enumerate(hard)]
    # A tenth better on every seed: far less than the seeds differ among themselves.
    better = compare([_trial("adam", k, v - 0.1, 5) for k, v in enumerate(hard)], reference, 6.0, "momentum")
    assert better.standing is Standing.BETTER and better.difference.value == pytest.approx(-0.1) and better.ratio.value == 0.5
    assert compare([_trial("adam", k, v + 0.1, 5) for k, v in enumerate(hard)], reference, 6.0, "momentum").standing is Standing.WORSE
    mixed = [_trial("adam", k, v + 0.1 * (-1) ** k, 5) for k, v in enumerate(hard)]
    assert compare(mixed, reference, 6.0, "momentum").standing is Standing.NO_DIFFERENCE


@pytest.mark.parametrize(
    "options,words",
    [
        ({"optimizers": ["sgd", "adm"]}, "'adm'"),
        ({"optimizers": []}, "at least one"),
        ({"optimizers": ["svrg"]}, "svrg cannot race"),
        ({"task": "digits"}, "digits_mlp"),
        ({"task": "race_tasks:nothing"}, "nothing"),
        ({"task": "race_tasks:not_a_task"}, "must return a steepest.race.Task"),
        ({"task": "race_tasks:crashes"}, "no such table"),
        ({"task": "race_tasks:vector"}, "must be a scalar"),
        ({"rates": (-0.1, 1.0)}, "positive"),
        ({"rates": (1.0, 0.1)}, "the lower first"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"seeds": -1}, "seeds must be"),
        ({"steps": 0}, "steps must be"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"rates": (float("nan"), 1.0)}, "two positive numbers"),
        ({"jobs": 2, "task": tiny()}, "give it as module:function"),
        ({"task": "fashion_cnn", "data": "/nowhere"}, "there is no Fashion-MNIST in /nowhere"),
    ],
)
def test_bad_requests_say_what_is_wrong(options, words):
    with pytest.raises(UsageError, match=words):
        _race(options.pop("task", None), **options)


def test_a_loss_that_is_not_a_number_from_the_start_is_refused_before_anything_runs():
    SEEN.clear()
    with pytest.raises(ModelError, match="the loss of broken is nan before the first step"):
        _race("race_tasks:broken")
    assert not SEEN


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"known are .*adam.*momentum"):
        _race(optimizers=["gd"])
    with pytest.raises(UsageError, match=r"known are .*rosenbrock.*module:function"):
        _race("mnist")


def test_a_task_object_runs_here():
    assert isinstance(tiny(), Task)


def test_a_method_that_wants_the_same_loss_is_noted_where_batches_change():
    options = {"optimizers": ["lbfgs"], "trials": 2, "seeds": 2}
    assert _race(**options).notes[0].startswith("lbfgs expects the same loss at every step, and the batches of tiny do not")
    assert not [note for note in _race([empty(), "saddle"], **options).notes if "expects" in note]


def test_other_rates():
    (contest,) = _race(rates=(1e-3, 1e-2)).contests
    for e in contest.entries:
        assert all(1e-3 <= find(e.method).rate(t.point) <= 1e-2 for t in e.tuning)
    assert next(e for e in contest.entries if e.method == "momentum").space[0].name == "lr / (1 - momentum)"


def test_a_schedule_is_for_all_methods_and_listed():
    result = _race(schedule="cosine")
    assert result.schedule == "cosine" and result.to_json()["schedule"] == "cosine"
    plain = {e.method: [r.final for r in e.runs] for e in _race().contests[0].entries}
    assert all([r.final for r in e.runs] != plain[e.method] for e in result.contests[0].entries)
    with pytest.raises(UsageError, match="no schedule 'cos'; known are constant, warmup, step, cosine"):
        _race(schedule="cos")


def test_the_target_takes_a_baseline_three_quarters_of_the_steps(tmp_path):
    result = _race("race_tasks:tiny", optimizers=["sgd"], seeds=4, steps=12, folder=tmp_path)
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    short = [k["trial"] for k in kept if k["setting"]["steps"] == 9]
    assert len(short) == 8 and {t["method"] for t in short} == {"momentum", "adam"}
    best = {name: sorted(min(e["value"] for e in t["evaluations"]) for t in short if t["method"] == name) for name in ("momentum", "adam")}
    better = min(best.values(), key=lambda values: values[1])
    assert result.contests[0].target == better[2]
