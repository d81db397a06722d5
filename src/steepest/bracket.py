"""Runs the bounds and the search within a budget, proves the best, and returns what is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from steepest.bounds import ChannelLipSDP, ClarkeJacobian, LinearJacobian, LipSDP, PieceLipSDP, Product, Rowwise, Signs, Splitting
from steepest.capture.head import with_output
from steepest.errors import SoundnessError
from steepest.estimates import LipLT, SeqLip
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.threads import threads, worthwhile_threads
from steepest.ops.backward import BackwardBounds
from steepest.ops.enclosures import Enclosures
from steepest.ops.region import enclose_domain
from steepest.proofs.certificate import versions, write_certificate
from steepest.proofs.check import check
from steepest.results import Bracket, Domain, Estimate, LowerBound, NetworkRecord, UpperBound
from steepest.results.domain import NORM_NAMES, number_to_json
from steepest.witnesses.ascent import GradientAscent

Progress = Callable[[str], None]
"""Called with a short phrase as each stage begins."""


@dataclass(frozen=True)
class Effort:
    """How long to look, from either side.

    Args:
        seconds: of computing, the limit of the search for a witness.
        starts: points ascended at once.
        upper_seconds: limit of the bounds that optimise.
        steps: most first-order steps on multipliers.
        exact: most variables for the interior point.
    """

    seconds: float
    starts: int
    upper_seconds: float
    steps: int = 2000
    exact: int = 1200


LIMIT_SHARE = 0.8
"""Part of a time limit left to bounds and search; the rest is for the checker."""

CHANNELS = 0.2
"""Part of the bounds' time that multipliers per channel have, from which those per neuron start."""

SPLITTING = 0.4
"""Part of the bounds' time that splitting has, where the network has few inputs."""

SIGNS = 0.4
"""Part of the bounds' time that branching over activation patterns has, where the network is small and piecewise linear."""

PROVING = 3.0
"""How many times as long as it took to find multipliers for pieces of the inputs the checker takes to prove them."""

EXACT = 1e-5
"""What is left between the squares of a bound and of a slope that was met, relatively, where no better bound is looked for."""

CONFIRMING = 1.0
"""Seconds of the search for a witness where the steepest point is known."""

LINEAR_WORK = 3e8
"""Multiplications for the linear bounds of one node, for each second of the bounds' time."""

ROWS = 0.5
"""Part of the bounds' time that multipliers for single rows have in linf."""

ROW_STEPS = 20
"""Steps on the multipliers of a row."""

ESTIMATES = 0.1
"""Part of the bounds' time that an estimate may take, and a second at most."""

EFFORTS: dict[str, Effort] = {
    "fast": Effort(3.0, 16, 5.0, steps=30, exact=640),
    "normal": Effort(12.0, 32, 25.0),
    "high": Effort(60.0, 32, 240.0),
}
"""What ``--effort`` means."""


@dataclass(frozen=True)
class Bracketing:
    """Bounds a Lipschitz constant from both sides and proves both ends.

    Every upper bound that applies is computed and handed to the independent checker; the least that both agree on is
    the upper end. The lower end is a secant between two real points, evaluated with rounding accounted for, by both.

    Args:
        effort: of the search for a witness.
        time_limit: seconds for the whole, or None. Past it, the remaining bounds are skipped and a note says so.
        seed: of the search.
        progress: told of each stage.
        stop: once asked, searches and bounds end with the best they have, and that is proven and returned.
        device: where multipliers take their first-order steps; all that is proven is computed on the processor.
    """

    effort: Effort = EFFORTS["normal"]
    time_limit: float | None = None
    seed: int = 0
    progress: Progress = lambda stage: None
    stop: Deadline = field(default_factory=Deadline)
    device: str = "cpu"

    def run(
        self,
        graph: Graph,
        domain: Domain,
        norm: float,
        output: tuple[int, ...] | None = None,
        data: Tensor | None = None,
        name: str = "network",
    ) -> Bracket:
        """Bracket the constant of ``graph`` (or of one output, or a difference of two) over a convex domain.

        Args:
            graph: the network.
            domain: all inputs, a box or a ball.
            norm: 1, 2 or inf, at both ends.
            output: see ``with_output``.
            data: ``[count, *input_shape]``, typical inputs from which the search starts.
            name: what people call the network.

        Raises:
            UsageError: where ``output`` does not fit.
            SoundnessError: where the witness contradicts an upper bound; its ``replay`` holds all that is needed to see it again.
        """
        started = time.perf_counter()
        with threads(worthwhile_threads(graph.entries)):
            return self._run(graph, domain, norm, output, data, name, started)

    def _run(
        self,
        graph: Graph,
        domain: Domain,
        norm: float,
        output: tuple[int, ...] | None,
        data: Tensor | None,
        name: str,
        started: float,
    ) -> Bracket:
        record = graph.record()
        headed = with_output(graph, output)
        notes: list[str] = []
        uppers = self._uppers(headed, domain, norm, started, notes)
        estimates = self._estimates(headed, domain, norm, started)
        self.progress("searching for a witness")
        # A limit on the whole is one of the wall clock; without it other load on the machine only delays the search.
        owed = max((PROVING * u.seconds for u in uppers if u.method == Splitting.name), default=0.0)
        stop = self.stop if self.time_limit is None else self.stop.within(self._left(started, self.effort.seconds, owed))
        seconds = min(self.effort.seconds, CONFIRMING) if any(_exact(u) for u in uppers) else self.effort.seconds
        points = [torch.from_numpy(u.point) for u in uppers if u.point is not None]
        search = GradientAscent(seconds=seconds, starts=self.effort.starts, stop=stop, seed=self.seed)
        witness = search.search(headed, domain, norm, data, torch.stack(points) if points else None)
        self._compare(record, domain, norm, output, uppers, witness)

        self.progress("checking the certificate")
        proven, certificate = self._prove(record, domain, norm, output, uppers, witness, notes)
        uppers = tuple(sorted(proven, key=lambda u: u.value))
        blocked = next((u.blocked_by for u in uppers if u.blocked_by), None)
        if uppers[0].value == math.inf:
            notes.append(_unbounded(blocked, domain))
        lower = certificate["lower"]["bound"] if certificate["lower"] else 0.0
        return Bracket(
            digest=record.digest,
            lower=lower,
            upper=uppers[0].value,
            norm=norm,
            domain=domain,
            output=output,
            uppers=uppers,
            witness=None if witness is None else replace(witness, value=lower),
            seconds=time.perf_counter() - started,
            certificate=certificate,
            checked=True,
            notes=tuple(notes),
            name=name,
            limited=self._limited(started),
            estimates=estimates,
        )

    def _limited(self, started: float, share: float = LIMIT_SHARE) -> bool:
        """Whether somebody asked to stop, or the time limit is reached."""
        late = self.time_limit is not None and time.perf_counter() - started >= share * self.time_limit
        return bool(self.stop.asked) or late

    def _left(self, started: float, wanted: float, owed: float = 0.0, share: float = 1.0) -> float:
        """Seconds for a stage within a share of what the whole limit leaves, less what later stages are owed; never quite none."""
        if self.time_limit is None:
            return wanted
        return max(0.5, min(wanted, share * (LIMIT_SHARE * self.time_limit - (time.perf_counter() - started) - owed)))

    def _uppers(self, graph: Graph, domain: Domain, norm: float, started: float, notes: list[str]) -> tuple[UpperBound, ...]:
        self.progress("product of operator norms")
        uppers = [Product().bound(graph, domain, norm)]
        jacobian = ClarkeJacobian()
        if not jacobian.applies(graph):
            size = f"{math.prod(graph.shape)} x {math.prod(graph.input_shape)}"
            notes.append(f"The Clarke-Jacobian interval bound was left out: the Jacobian has {size} entries; ask for one output.")
        elif self._limited(started, 1.0):
            notes.append("Time was up before the Clarke-Jacobian interval bound, which was left out.")
        else:
            self.progress("intervals of the Clarke Jacobian")
            uppers.append(jacobian.bound(graph, domain, norm))
        linear = LinearJacobian(work=LINEAR_WORK * self.effort.upper_seconds, deadline=self.stop)
        # What every bound below begins with: found once, by linear bounds where these are affordable.
        tight = linear.applies(graph, domain) and not self._limited(started)
        if tight:
            self.progress("linear bounds of all values")
            known = Enclosures.over(graph, domain, BackwardBounds(linear.entries, linear.work, linear.deadline))
        else:
            known = Enclosures(enclose_domain(graph, domain))
        if tight and not self._limited(started):
            self.progress("linear bounds of the Clarke Jacobian")
            uppers.append(replace(linear, enclosures=known).bound(graph, domain, norm))
            rowwise = Rowwise(linear.row_sums, PieceLipSDP(first=ROW_STEPS), self.stop, linear.work, enclosures=known)
            if rowwise.applies(graph, domain, norm) and not self._limited(started):
                self.progress("multipliers, row by row")
                seconds = self._left(started, ROWS * self.effort.upper_seconds)
                uppers.append(replace(rowwise, deadline=self.stop.within(seconds)).bound(graph, domain, norm))
        exact = False
        if norm == 2.0 and min(u.value for u in uppers) < math.inf:
            self.progress("multipliers for slope restrictions")
            deadline = self.stop.within(self._left(started, self.effort.upper_seconds))
            neurons = LipSDP(deadline=deadline, steps=self.effort.steps, exact=self.effort.exact, device=self.device, enclosures=known)
            refusal = neurons.refusal(graph, domain)
            # Where few slopes are uncertain the interior point ends at a bound that none with one multiplier per channel is below.
            exact = not refusal and tight and neurons.is_small(graph, domain)
            if not exact:
                share = deadline.share(1.0 if refusal else CHANNELS)
                channels = ChannelLipSDP(deadline=share, steps=self.effort.steps, device=self.device)
                uppers.append(channels.bound(graph, domain, norm))
                neurons = replace(neurons, channels=uppers[-1] if uppers[-1].value < math.inf else None)
            if not refusal:
                uppers.append(neurons.bound(graph, domain, norm))
            # What does not fit on a torus is told only where nothing else came of it.
            if uppers[-1].remark:
                notes.append(uppers[-1].remark)
            uppers = [u for u in uppers if u.value < math.inf or not u.method.startswith("lipsdp")]
        signs = Signs(self.stop.within(self._left(started, SIGNS * self.effort.upper_seconds)), enclosures=known)
        if signs.applies(graph, domain) and not self._limited(started):
            self.progress("branching over activation patterns")
            uppers.append(signs.bound(graph, domain, norm))
            uppers = [u for u in uppers if u.value < math.inf or u.method != signs.name]
            if _exact(uppers[-1]):
                return tuple(uppers)
        deadline = self.stop.within(self._left(started, SPLITTING * self.effort.upper_seconds, share=1.0 / (2.0 + PROVING)))
        splitting = Splitting(jacobian.over, PieceLipSDP(), deadline, enclosures=known)
        if not splitting.boxes(graph, domain):
            whole = LipSDP(steps=self.effort.steps, exact=self.effort.exact, device=self.device)
            splitting = replace(splitting, inner=PieceLipSDP(whole=whole))
        # One piece alone has nothing to add to the exact multipliers over the same enclosures.
        pieces = splitting.boxes(graph, domain) or splitting.signs(graph)
        if (pieces or not exact) and splitting.applies(graph, domain) and jacobian.applies(graph) and not self._limited(started):
            self.progress("splitting the inputs")
            uppers.append(splitting.bound(graph, domain, norm))
        return tuple(uppers)

    def _estimates(self, graph: Graph, domain: Domain, norm: float, started: float) -> tuple[Estimate, ...]:
        """What stands beside the bounds; no more comes of it, so it is the first to go where time is short."""
        if norm != 2.0 or self._limited(started, 0.5):
            return ()
        self.progress("estimates")
        seconds = self._left(started, min(1.0, ESTIMATES * self.effort.upper_seconds))
        methods = (method(deadline=self.stop.within(seconds)) for method in (SeqLip, LipLT))
        found = (method.estimate(graph, domain) for method in methods)
        return tuple(e for e in found if e is not None)

    def _prove(
        self,
        record: NetworkRecord,
        domain: Domain,
        norm: float,
        output: tuple[int, ...] | None,
        uppers: Sequence[UpperBound],
        witness: LowerBound | None,
        notes: list[str],
    ) -> tuple[list[UpperBound], dict[str, Any]]:
        """Every finite upper bound restated as what the checker agrees to, and the certificate of the best."""
        ranked = sorted(uppers, key=lambda u: u.value)
        proven: list[UpperBound] = []
        best, certified = math.inf, None
        for upper in ranked:
            # A bound that cannot become the least need not be proven; it is shown as a comparison.
            if certified is None or upper.value < best:
                certificate = write_certificate(record, output=output, norm=norm, domain=domain, upper=upper, lower=witness)
                verdict = check(certificate, record)
                if math.isfinite(upper.value) and not math.isfinite(verdict.upper):
                    reasons = " ".join(verdict.reasons)
                    notes.append(f"The {upper.method} bound {upper.value:.6g} was dropped, since the checker does not prove it: {reasons}")
                # Restated as the larger of both; the checker then accepts it, since it proved that much itself.
                upper = replace(upper, value=max(upper.value, verdict.upper))
                certificate["upper"]["bound"] = number_to_json(upper.value)
                if witness is not None:
                    certificate["lower"]["bound"] = max(0.0, min(witness.value, verdict.lower))
                if certified is None or upper.value < best:
                    best, certified = upper.value, certificate
            proven.append(upper)
        assert certified is not None
        return proven, certified

    def _compare(
        self,
        record: NetworkRecord,
        domain: Domain,
        norm: float,
        output: tuple[int, ...] | None,
        uppers: Sequence[UpperBound],
        witness: LowerBound | None,
    ) -> None:
        for upper in uppers:
            if witness is not None and witness.value > upper.value:
                raise SoundnessError(
                    f"the witness shows a slope of {witness.value!r}, above the {upper.method} bound {upper.value!r}: a bug in steepest",
                    replay={
                        "format": "steepest-soundness/1",
                        "digest": record.digest,
                        "network": record.outline(),
                        "domain": domain.to_json(),
                        "norm": NORM_NAMES[norm],
                        "output": None if output is None else list(output),
                        "seed": self.seed,
                        "upper": {"method": upper.method, "bound": upper.value, "steps": [s.to_json() for s in upper.steps]},
                        "lower": witness.to_json(),
                        "versions": versions(),
                    },
                )


def _exact(upper: UpperBound) -> bool:
    """Whether a method met a slope of about the bound that it proves."""
    return upper.point is not None and upper.gap is not None and upper.gap < EXACT


def _unbounded(blocked_by: str | None, domain: Domain) -> str:
    where = f"Node {blocked_by!r} has no Lipschitz constant over {domain.describe()}" if blocked_by else "No bound is finite"
    remedy = "give a region (--at X --radius R, or --box LO HI)" if domain.kind == "all" else "give a smaller region"
    return f"{where}, so no finite upper bound is known: {remedy}."
