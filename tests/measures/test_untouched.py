"""Every measure leaves the model, its buffers, its gradients and the random state as they were, and answers the same twice."""

import pytest
import torch

from steepest.measures.covariate_shift import gradient_shift, gradient_step, input_shift
from steepest.measures.hessian import hessian_eigenvalues
from steepest.measures.jacobian import input_output_spectrum, layer_spectra
from steepest.measures.landscape import along_gradient
from steepest.measures.noise_scale import noise_scale
from steepest.measures.signals import gradient_norms, signals
from steepest.measures.skips import losses_without_blocks, residual_use

MEASURES = {
    "hessian": lambda *c: hessian_eigenvalues(*c, steps=5).values.tolist(),
    "landscape": lambda *c: along_gradient(*c, (0.1, 1.0)),
    "gradient shift": lambda *c: gradient_shift(*c, gradient_step(*c, 0.5)),
    "input shift": lambda m, f, b: input_shift(m, b[0], gradient_step(m, f, b, 0.5)),
    "noise": lambda *c: noise_scale(*c, parts=4),
    "signals": lambda m, f, b: signals(m, b[0]),
    "gradient norms": lambda *c: gradient_norms(*c),
    "joins": lambda m, f, b: residual_use(m, b[0]),
    "ablations": lambda *c: losses_without_blocks(*c),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("model_name", ["convnet", "resnet"])
def test_nothing_is_touched(name, model_name, cases, untouched):
    case = cases(model_name)
    with untouched(case[0]):
        first = MEASURES[name](*case)
        with torch.no_grad():
            again = MEASURES[name](*case)
    assert first == again


def test_nothing_is_touched_by_jacobians(cases, untouched):
    model, _, (x, _) = cases("convnet")
    model.eval()
    with untouched(model):
        first = input_output_spectrum(model, x[:3]), layer_spectra(model, x[:3])
        assert first == (input_output_spectrum(model, x[:3]), layer_spectra(model, x[:3]))
