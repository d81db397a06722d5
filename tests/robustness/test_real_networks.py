"""Radii of trained networks: below the attacks, positive, and proven again; what has no answer is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from steepest.capture.load import load
from steepest.errors import UnsupportedOperatorError, UsageError
from steepest.proofs.certificate import RadiusClaim, write_radii
from steepest.proofs.check import check
from steepest.robustness.batch import EFFORTS, NONE, Batch, certify_batch
from steepest.robustness.decisions import scores

LITTLE = replace(EFFORTS["fast"], tries=2, work=1e7, starts=2, steps=10)
SINGLE = {
    "cgan_imgSz32_nCh_1",
    "cgan_imgSz32_nCh_3_nonlinear_activations",
    "collins_rul_full_window_40",
    "nn4sys_lindex",
    "tll_n2_NM16_1_0",
}
LEAPS = {"carvana_unet_simp_small", "gtsrb_bnn_30_30"}


@pytest.mark.shared
def test_every_trained_classifier_has_radii_below_its_attacks(shared):
    seen = set()
    for k, path in enumerate(sorted((shared / "nets").glob("*.onnx"))):
        try:
            whole = load(str(path)).graph
            graph = scores(whole)
        except (UnsupportedOperatorError, UsageError) as error:
            assert path.stem in (SINGLE if isinstance(error, UsageError) else LEAPS), path.stem
            continue
        seen.add(path.stem)
        norm = [1.0, 2.0, math.inf][k % 3]
        x = torch.from_numpy(np.random.default_rng(0).uniform(0.0, 1.0, (1, *graph.input_shape)))
        # Raises where an attack is nearer than the radius.
        (found,) = certify_batch(Batch(graph, x, 0, None, norm, LITTLE, 0, None))
        assert (found.radius > 0) == (found.margin > 0), (path.stem, found)
        assert found.radius < found.attack
        claims = [RadiusClaim(0, x[0].numpy(), found.answer, found.radius, found.source, LITTLE.work)] if found.source != NONE else []
        verdict = check(write_radii(whole.record(), norm, claims, None), whole.record())
        assert verdict.holds and verdict.radii == len(claims), (path.stem, verdict.reasons)
    assert len(seen) == 48 - len(SINGLE) - len(LEAPS)
