"""The verbs in Python: bound, check, certify, audit, generalisation, watch, diagnose, study, race."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steepest import fixes
from steepest.audit import Auditing, AuditResult, Subject
from steepest.audit import Progress as AuditProgress
from steepest.bracket import EFFORTS, Bracketing, Effort, Progress
from steepest.capture.data import as_batch, as_input, as_labels
from steepest.capture.head import with_output
from steepest.capture.load import Loaded, load
from steepest.diagnose import judge
from steepest.errors import UsageError
from steepest.example import train_digits
from steepest.graph import Graph
from steepest.jobs import Progress as RunProgress
from steepest.jobs import workers
from steepest.local import LocalConstants
from steepest.measures.generalisation import generalise
from steepest.numerics.deadline import Deadline
from steepest.numerics.device import require_device
from steepest.proofs.certificate import load_certificate
from steepest.proofs.check import Verdict
from steepest.proofs.check import check as check_against
from steepest.race.race import race as race
from steepest.results import Bracket, Domain, Generalisation, StudyResult
from steepest.results.certification import Certification
from steepest.results.diagnosis import Diagnosis, Ending
from steepest.results.domain import NORM_NAMES, norm_from_name
from steepest.robustness.batch import EFFORTS as RADIUS_EFFORTS
from steepest.robustness.certify import Certifying
from steepest.robustness.decisions import scores
from steepest.studies.table import find
from steepest.watch import watch as watch
from steepest.watch.script import run_script

Model = nn.Module | Graph | str | Path
"""An ``nn.Module``; a path to ``.onnx`` or ``.safetensors``; or ``"module:factory"``."""

Array = np.ndarray | Tensor


def bound(
    model: Model,
    *,
    sample: Tensor | tuple[Tensor, ...] | None = None,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    norm: float | str = 2,
    at: Array | None = None,
    radius: float | None = None,
    box: tuple[float | Array, float | Array] | None = None,
    output: tuple[int, ...] | int | None = None,
    effort: str = "normal",
    time_limit: float | None = None,
    data: Array | None = None,
    seed: int = 0,
    progress: Progress = lambda stage: None,
    stop: Deadline | None = None,
    device: str = "cpu",
) -> Bracket:
    """Bracket ``L = sup |f(x) - f(y)|_p / |x - y|_p`` over a convex set of inputs: all of them, a box, or a ball.

    Args:
        model: the network, taken in evaluation mode, with its weights as exact float64 numbers.
        sample: for an ``nn.Module``: one batch of inputs; only the shape of its first entry counts.
        factory: for a safetensors file: ``"module:factory"`` that builds the network.
        input_shape: instead of ``sample``: the shape of one input without its batch axis.
        norm: 1, 2 or inf, of the flattened inputs and of the flattened outputs.
        at: centre of a ball, one input with or without its batch axis.
        radius: of the ball, in the same norm.
        box: ``(lo, hi)``, numbers or arrays of one input's shape.
        output: None for all outputs, ``i`` for one, ``(i, j)`` for ``f_i - f_j`` (positions in the flattened output).
        effort: ``fast``, ``normal`` or ``high``: how long the search for a steep pair of inputs takes (3, 12 or 60 s), and how long
            the bounds that optimise do (5, 25 or 240 s).
        time_limit: seconds for the whole; what does not fit is left out and a note says so.
        data: ``[n, *input_shape]``, typical inputs; the search starts from them.
        seed: of the search.
        progress: called with a phrase as each stage begins.
        stop: ``stop.stop(reason)``, from a signal handler or another thread, ends the run early with the best so far.
        device: such as ``cuda``, where multipliers are looked for; proofs are computed on the processor.

    Returns:
        A ``Bracket`` whose both ends are proven. ``upper`` is infinite where the network has no constant that these bounds
        can prove; ``notes`` then names the node.

    Raises:
        UsageError: options that do not fit together or the network.
        ModelError: a model that cannot be taken; ``UnsupportedOperatorError`` names the operator.
        SoundnessError: a contradiction between the two ends: a bug, with everything needed to replay it.
    """
    if effort not in EFFORTS:
        raise UsageError(f"effort must be one of {', '.join(EFFORTS)}, not {effort!r}")
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise UsageError(f"the time limit must be a positive number of seconds, not {time_limit:g}")
    p = require_norm(norm)
    require_device(device)
    loaded = capture(model, sample=sample, factory=factory, input_shape=input_shape)
    domain = make_domain(loaded.graph.input_shape, p, at, radius, box)
    chosen = (output,) if isinstance(output, int) else output
    inputs = None if data is None else as_batch(data, loaded.graph.input_shape)
    bracketing = Bracketing(EFFORTS[effort], time_limit, seed, progress, stop or Deadline(), device)
    return bracketing.run(loaded.graph, domain, p, chosen, inputs, loaded.name)


def check(
    certificate: Mapping[str, Any] | str | Path,
    model: Model,
    *,
    sample: Tensor | tuple[Tensor, ...] | None = None,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Verdict:
    """Verify a certificate against a model, captured afresh; the verification itself needs numpy alone.

    Args:
        certificate: the parsed JSON, or its path.
        model, sample, factory, input_shape: as in ``bound``.

    Returns:
        The verdict: whether everything it claims holds, and the reasons why not.
    """
    content = load_certificate(Path(certificate)) if isinstance(certificate, (str, Path)) else certificate
    return check_against(content, capture(model, sample=sample, factory=factory, input_shape=input_shape).graph.record())


def certify(
    model: Model,
    x: Array,
    y: Array | None = None,
    *,
    sample: Tensor | tuple[Tensor, ...] | None = None,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    data_name: str = "data",
    norm: float | str = 2,
    radius: float | None = None,
    inputs: int | None = None,
    effort: str = "normal",
    time_limit: float | None = None,
    seed: int = 0,
    jobs: int = 1,
    executor: Executor | None = None,
    cluster_address: str | None = None,
    folder: str | Path | None = None,
    fresh: bool = False,
    progress: RunProgress = lambda stage, fraction: None,
    stop: Deadline | None = None,
) -> Certification:
    """Certify radii: for each input a ball in which the answer provably does not change, and the nearest point found where it does.

    The answer is the position of the largest entry of the flattened output. For the network as a map of real numbers, every x' with
    ``|x' - x|_p <= radius`` has the answer that x has. Perturbations are not confined to a range of pixels.

    Args:
        model, sample, factory, input_shape, norm: as in ``bound``; by default the sample is ``x``.
        x: inputs ``[n, *input_shape]``.
        y: labels ``[n]``, integers, for accuracies; without them every answer counts as right.
        data_name: what people call the data.
        radius: at which accuracies are told; by default a round number near the median certified radius.
        inputs: how many are done, from the first; by default all.
        effort: ``fast``, ``normal`` or ``high``: how tight the linear bounds are, how many radii are tried, how long attacks search.
        time_limit: seconds for the whole; inputs that are not reached are left out.
        seed: of the attacks.
        jobs: local processes, each of one thread; 1 is this process. With more, a script that calls this needs
            ``if __name__ == "__main__":``.
        executor: instead of ``jobs``: any ``concurrent.futures.Executor``; it stays open.
        cluster_address: instead of ``jobs``: of a Dask scheduler.
        folder: keeps every finished batch, and takes up those that are there, of the same run.
        fresh: forget what is there.
        progress: called with a phrase and the fraction done.
        stop: ``stop.stop(reason)`` ends the run early with the inputs that are done.

    Raises:
        UsageError: for a network with a single output, data that do not fit it, labels out of range, and options that cannot be.
        ModelError: a model that cannot be taken.
        SoundnessError: where an attack contradicts a radius: a bug, with everything needed to replay it.
    """
    if effort not in RADIUS_EFFORTS:
        raise UsageError(f"effort must be one of {', '.join(RADIUS_EFFORTS)}, not {effort!r}")
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise UsageError(f"the time limit must be a positive number of seconds, not {time_limit:g}")
    if radius is not None and not 0 <= radius < math.inf:
        raise UsageError(f"the radius must be finite and not negative, not {radius:g}")
    if inputs is not None and inputs < 1:
        raise UsageError(f"inputs must be at least 1, not {inputs}")
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, not {jobs}")
    p = require_norm(norm)
    if sample is None and input_shape is None and isinstance(model, nn.Module):
        sample = torch.zeros(1, *np.shape(x)[1:])
    loaded = capture(model, sample=sample, factory=factory, input_shape=input_shape)
    batch = as_batch(x, loaded.graph.input_shape)
    classes = math.prod(scores(loaded.graph).shape)
    labels = None if y is None else as_labels(y, len(batch), classes)
    made, place = workers(jobs, cluster_address, executor), None if folder is None else Path(folder)
    certifying = Certifying(p, effort, seed, inputs, time_limit, place, fresh, made, progress, stop or Deadline())
    return certifying.run(loaded.graph, batch, labels, radius, loaded.name, data_name)


def local_constants(
    model: Model,
    x: Array,
    radius: float | Array,
    *,
    sample: Tensor | tuple[Tensor, ...] | None = None,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    norm: float | str = 2,
    output: tuple[int, ...] | int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Bound the Lipschitz constants around many inputs at once.

    For each input ``x_i``: ``|f(y) - f(z)|_p <= L_i |y - z|_p`` for all y, z in the ball of radius ``radius_i`` in lp around it, for the
    network as a map of real numbers, proven in floating point with rounding accounted for. ``bound`` over one ball gives a lower end and
    a certificate as well.

    Args:
        model, sample, factory, input_shape, norm, output: as in ``bound``; by default the sample is ``x``.
        x: inputs ``[n, *input_shape]``.
        radius: of all balls, or ``[n]``.
        executor: any ``concurrent.futures.Executor``, which then computes parts of the batch; it stays open.
        progress: called with the number of inputs done.

    Returns:
        float64 ``[n]``; infinite where the network has no constant over a ball that these bounds can prove.

    Raises:
        UsageError: inputs, radii or an output that do not fit.
        ModelError: a model that cannot be taken.
    """
    p = require_norm(norm)
    if sample is None and input_shape is None and isinstance(model, nn.Module):
        sample = torch.zeros(1, *np.shape(x)[1:])
    graph = capture(model, sample=sample, factory=factory, input_shape=input_shape).graph
    batch = as_batch(x, graph.input_shape)
    radii = torch.as_tensor(radius, dtype=torch.float64)
    if radii.shape not in ((), (len(batch),)) or not bool(((radii >= 0) & (radii < math.inf)).all()):
        raise UsageError(f"the radius is one finite number of at least 0, or one for each of the {len(batch)} inputs")
    headed = with_output(graph, (output,) if isinstance(output, int) else output)
    return LocalConstants(p, progress=progress).run(headed, batch, radii.expand(len(batch)), executor).numpy()


def audit(
    model: Model | None = None,
    *,
    x: Array | None = None,
    y: Array | None = None,
    sample: Tensor | tuple[Tensor, ...] | None = None,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    data_name: str = "data",
    norm: float | str = 2,
    radius: float | None = None,
    inputs: int = 100,
    effort: str | Effort = "normal",
    seed: int = 0,
    progress: AuditProgress = lambda stage, fraction: None,
) -> AuditResult:
    """Bracket a network globally and around inputs, and certify radii; without a model, the embedded example.

    Args:
        model, sample, factory, input_shape, norm, effort, seed: as in ``bound``.
        x: inputs ``[n, *input_shape]``; without them only the global bracket is found.
        y: labels ``[n]``.
        data_name: what people call the data.
        radius: of the balls for local brackets; by default the median certified radius.
        inputs: how many inputs are certified.
        progress: called with a phrase and the fraction done.

    Returns:
        The audit's JSON, from which ``steepest.report`` makes the page, and the certificate of the global bracket.
    """
    if isinstance(effort, str):
        if effort not in EFFORTS:
            raise UsageError(f"effort must be one of {', '.join(EFFORTS)}, not {effort!r}")
        effort = EFFORTS[effort]
    if radius is not None and not 0 < radius < math.inf:
        raise UsageError(f"the radius must be positive and finite, not {radius:g}")
    auditing = Auditing(require_norm(norm), inputs, radius, effort, seed, progress)
    if model is None:
        if x is not None or y is not None:
            raise UsageError("the embedded example brings its own data: give a model with x and y, or neither")
        return auditing.run(_example(seed, progress))
    loaded = capture(model, sample=sample, factory=factory, input_shape=input_shape)
    batch = None if x is None else as_batch(x, loaded.graph.input_shape)
    labels = None if y is None else torch.as_tensor(np.asarray(y)).long()
    if batch is not None and labels is not None and len(labels) != len(batch):
        raise UsageError(f"{len(batch)} inputs came with {len(labels)} labels")
    source = str(model) if isinstance(model, (str, Path)) else type(model).__name__
    return auditing.run(Subject(loaded.graph, loaded.name, source, batch, labels, data_name))


def generalisation(
    model: Model,
    x: Array,
    y: Array,
    *,
    reference: Model | None = None,
    bracket: Bracket | None = None,
    delta: float = 0.01,
    margin: float | None = None,
    factory: str | None = None,
) -> Generalisation:
    """Norms and margins of a trained classifier, and the bound of its error that follows from them (Bartlett et al. 2017, Theorem 1.1).

    Spectral complexity from proven norms, the margins of the training samples, the whole bound with its constants, path norms. For
    networks of practical size the bound is far above 1, that is, it promises nothing; what the numbers are good for is comparison.

    Args:
        model: a chain of layers with Lipschitz maps that send zero to zero in between; ``nn.Module``, file or factory. A last softmax or
            log-softmax, which changes no answer, is left out.
        x: ``[n, *input_shape]``, the samples it was trained on; the bound holds if they were drawn independently.
        y: ``[n]``, their labels, from 0.
        reference: the same architecture with the weights it began with, from which distances are measured; by default from zero. It must
            have been chosen before the samples were seen.
        bracket: of the same network, from ``steepest.bound(model, sample=x)``: its upper end takes the product's place in a variant of the
            complexity, which is no bound.
        delta: the bound may fail with this probability over the draw of the samples.
        margin: at which the bound is evaluated, rounded to a grid of 10 % steps; by default where it is least.
        factory: as in ``bound``.

    Raises:
        UsageError: for labels, shapes or options that do not fit, a reference of another architecture, a bracket of another network.
        UnsupportedOperatorError: for an operator that the theorem does not cover, such as attention, a softmax within the network or a
            sum of branches, by name.
    """
    shape = tuple(x.shape[1:])
    loaded = capture(model, sample=None, factory=factory, input_shape=shape)
    start = None if reference is None else capture(reference, sample=None, factory=factory, input_shape=shape).graph
    graph = loaded.graph
    labels = torch.as_tensor(np.asarray(y))
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise UsageError(f"labels are whole numbers, not {labels.dtype}")
    return generalise(
        graph, as_batch(x, graph.input_shape), labels.long(), reference=start, bracket=bracket, delta=delta, margin=margin, name=loaded.name
    )


def diagnose(
    script: str | Path,
    arguments: Sequence[str] = (),
    *,
    curvature: bool = False,
    convergence: bool = False,
    try_fixes: bool = False,
    fix_limit: float | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Diagnosis:
    """Run a training script under observation, as ``python SCRIPT.py`` would run it, and say what is wrong with it.

    Args:
        script: a Python file.
        arguments: its command line.
        curvature: also measure the Hessian's largest eigenvalue and the gradient noise scale; they are among the measurements.
        convergence: also hold the descent lemma against the run, and measure the curvature; the theories that cost little are always asked.
        try_fixes: run it again, up to six times, each time in a process of its own under an intervention that speaks to a finding, and
            compare what it reaches. The script does again whatever else it does, such as writing files.
        fix_limit: seconds that one such run may take; by default 30 and five times what the first run took.
        progress: told in a line what is tried.

    Returns:
        The findings, ranked, with how the script ended. An error of the script's own is shown on stderr, not raised.

    Raises:
        UsageError: for a file that is missing or is no Python, and inside ``watch``.
    """
    where = fixes.Surroundings(str(script), tuple(arguments))
    began = time.monotonic()
    ran = run_script(script, arguments, curvature=curvature, convergence=convergence)
    spent = time.monotonic() - began
    run = ran.run
    findings = judge(run) if ran.ending.trained else ()
    if try_fixes and findings and ran.ending is not Ending.INTERRUPTED:
        limits = fixes.Limits(seconds=30 + 5 * spent if fix_limit is None else fix_limit)
        findings, _ = fixes.try_fixes(where, findings, run.measurements(), limits, progress)
    return Diagnosis(
        script=str(script),
        findings=tuple(findings),
        ending=ran.ending,
        exit_code=ran.exit_code,
        steps=run.steps,
        losses=tuple(p.value for p in run.losses),
        notes=run.notes,
        measurements={type(r).__name__: r.to_json() for r in run.measurements()},
        loss_optimizers=tuple(p.optimizer for p in run.losses),
    )


def study(name: str, *, seeds: int | None = None, progress: AuditProgress = lambda stage, fraction: None) -> StudyResult:
    """Try claims of the literature on scikit-learn's digits: a verdict per claim, with the numbers behind it, and figures.

    Other options than the number of seeds are fields of the study's class: ``steepest.studies.table.find(name)(steps=..., ...).run()``.

    Args:
        name: as ``steepest study list`` shows them.
        seeds: repetitions, over which the intervals are, at least two; by default the study's own number.
        progress: called with a phrase and the fraction done.

    Raises:
        UsageError: for an unknown name or too few seeds, or without scikit-learn, which has the data.
    """
    kind = find(name)
    return (kind() if seeds is None else kind(seeds=seeds)).run(progress)


def capture(
    model: Model, *, sample: Tensor | tuple[Tensor, ...] | None, factory: str | None, input_shape: tuple[int, ...] | None
) -> Loaded:
    """The network as a graph, with the name people call it."""
    if isinstance(model, Graph):
        return Loaded(model, "graph")
    return load(model, factory=factory, input_shape=input_shape, sample=sample)


def make_domain(
    shape: tuple[int, ...],
    norm: float,
    at: Array | None,
    radius: float | None,
    box: tuple[float | Array, float | Array] | None,
) -> Domain:
    """The set of inputs that the options describe.

    Raises:
        UsageError: for options that contradict each other or do not fit the network's input.
    """
    if at is None and radius is None and box is None:
        return Domain("all")
    if box is not None:
        if at is not None or radius is not None:
            raise UsageError("a region is a box or a ball: give --box LO HI, or --at X with --radius R, not both")
        lo, hi = (
            np.array(np.broadcast_to(np.float64(end) if isinstance(end, (int, float)) else as_input(end, shape), shape)) for end in box
        )
        if np.isnan(lo).any() or np.isnan(hi).any() or (lo > hi).any():
            raise UsageError("the box is empty: LO must not exceed HI anywhere")
        if (lo == np.inf).any() or (hi == -np.inf).any():
            raise UsageError("the box is empty: LO must be below infinity, and HI above minus infinity")
        return Domain("box", lo=lo, hi=hi)
    if at is None or radius is None:
        raise UsageError("a ball needs its centre and its radius: give both --at X and --radius R")
    if not 0 <= radius < math.inf:
        raise UsageError(f"the radius must be finite and not negative, not {radius:g}")
    return Domain("ball", centre=as_input(at, shape), radius=float(radius), norm=norm)


def require_norm(norm: float | str) -> float:
    """1, 2 or inf as a float.

    Raises:
        UsageError: for any other.
    """
    try:
        return norm_from_name(norm) if isinstance(norm, str) else norm_from_name(NORM_NAMES.get(float(norm), str(norm)))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _example(seed: int, progress: AuditProgress) -> Subject:
    progress("training the example", 0.0)
    example = train_digits(seed)
    graph = load(example.model, sample=example.x[:1].float()).graph
    training = {
        "description": "Two convolutions and two dense layers on scikit-learn's digits, AdamW",
        "epochs": example.epochs,
        "seconds": example.seconds,
        "loss": list(example.losses),
        "test_accuracy": example.accuracy,
    }
    # The graph takes samples with their batch axis of one.
    x = as_batch(example.x.numpy(), graph.input_shape)
    return Subject(graph, "digits CNN", "embedded example", x, example.y, "scikit-learn digits, test part", training)
