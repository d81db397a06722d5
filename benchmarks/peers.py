"""What other people's solvers say of one chain of dense layers and ReLUs; run by ``bounds.py`` in the peers' environment.

    python benchmarks/peers.py NET.onnx clarabel|scs|eclipse|eclipse-fast SECONDS

Prints one JSON object; its seconds, of processor time, count neither imports nor reading the file. ``own`` is what the solver
itself reports (setup and solve), the rest of the call is cvxpy's translation of the program, which is LipSDP-Neuron as
Fazlyab et al. 2019 write it.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnx
from onnx import numpy_helper


def weights(path: str) -> list[np.ndarray]:
    """The matrices of a chain, first to last, as ``[out, in]``."""
    graph = onnx.load(path).graph
    arrays = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Gemm":
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            found.append(arrays[node.input[1]] if turned else arrays[node.input[1]].T)
        elif node.op_type == "MatMul":
            found.append(arrays[node.input[1]].T)
        elif node.op_type not in ("Relu", "Add", "Flatten", "Constant"):
            raise SystemExit(f"{path} is no chain of dense layers and ReLUs: {node.op_type}")
    return found


def semidefinite(ws: list[np.ndarray], solver: str, seconds: float) -> dict[str, object]:
    import cvxpy as cp

    started, begun = time.perf_counter(), time.process_time()
    rho = cp.Variable(nonneg=True)
    ts = [cp.Variable(len(w), nonneg=True) for w in ws[:-1]]
    sizes = [ws[0].shape[1], *(len(w) for w in ws[:-1])]
    rows = [[np.zeros((a, b)) for b in sizes] for a in sizes]
    rows[0][0] = rho * np.eye(sizes[0])
    for k, (t, w) in enumerate(zip(ts, ws[:-1], strict=True), start=1):
        rows[k][k] = 2 * cp.diag(t)
        rows[k][k - 1] = -cp.multiply(t[:, None], w)
        rows[k - 1][k] = rows[k][k - 1].T
    rows[-1][-1] = rows[-1][-1] - ws[-1].T @ ws[-1]
    problem = cp.Problem(cp.Minimize(rho), [cp.bmat(rows) >> 0])
    options = {"clarabel": {"time_limit": seconds}, "scs": {"time_limit_secs": seconds, "max_iters": 10**7, "eps": 1e-6}}[solver]
    problem.solve(solver=solver.upper(), **options)
    taken, busy = time.perf_counter() - started, time.process_time() - begun
    stats = problem.solver_stats
    own = busy * min(1.0, ((stats.solve_time or 0.0) + (stats.setup_time or 0.0)) / taken)
    upper = None if rho.value is None else max(0.0, float(rho.value)) ** 0.5
    return {"upper": upper, "status": problem.status, "seconds": busy, "own": own}


def eclipse(ws: list[np.ndarray], method: str) -> dict[str, object]:
    import torch
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    begun = time.process_time()
    estimator = LipConstEstimator(weights=[torch.from_numpy(w) for w in ws])
    return {"upper": float(estimator.estimate(method)), "status": "done", "seconds": time.process_time() - begun}


def main() -> None:
    path, method, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    ws = weights(path)
    begun = time.process_time()
    try:
        if method in ("clarabel", "scs"):
            out = semidefinite(ws, method, seconds)
        else:
            out = eclipse(ws, "ECLipsE_Fast" if method == "eclipse-fast" else "ECLipsE")
    except Exception as error:
        out = {"upper": None, "status": f"{type(error).__name__}: {error}"[:200]}
    print("\n" + json.dumps({"seconds": time.process_time() - begun, **out}))


if __name__ == "__main__":
    main()
