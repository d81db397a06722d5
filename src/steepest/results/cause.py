"""The root causes of training that fails, one name and one sentence each."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """What is wrong with a training run; the value is the name that users, JSON and ``steepest explain`` see."""

    sentence: str

    def __new__(cls, name: str, sentence: str) -> Cause:
        """Attach the sentence to the name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.sentence = sentence
        return member

    LR_TOO_HIGH = "lr_too_high", "the steps are so large that the loss diverges, oscillates or settles far above what is reachable"
    LR_TOO_LOW = "lr_too_low", "the steps are so small that training hardly moves in the steps given"
    LOSS_OUTPUT_MISMATCH = "loss_output_mismatch", "the last activation does not suit the loss: one too many, or one missing"
    WRONG_LOSS = "wrong_loss", "the loss is not one for this kind of task"
    WRONG_ACTIVATION = "wrong_activation", "the hidden layers have an unsuitable activation or none, or one cuts off values that are needed"
    SATURATED_UNITS = "saturated_units", "sigmoid or tanh units sit in their flat ends and pass almost no gradient"
    DEAD_RELU = "dead_relu", "ReLU units give zero for every input and cannot learn any more"
    BAD_INIT = "bad_init", "the initial weights or biases have an unsuitable scale, or are all alike"
    VANISHING_GRADIENT = "vanishing_gradient", "gradients shrink on the way back, so that early layers or time steps do not learn"
    EXPLODING_GRADIENT = "exploding_gradient", "gradients or activations grow through layers or time steps until training breaks"
    INPUT_NOT_NORMALISED = "input_not_normalised", "inputs or regression targets have a raw, large or very unequal scale"
    BAD_LABELS = "bad_labels", "the labels are constant, shuffled against the inputs, or shifted"
    NO_SHUFFLE = "no_shuffle", "the order in which training data come is correlated with their labels"
    BATCH_TOO_SMALL = "batch_too_small", "the batch is too small for the step size: the noise of the gradient dominates"
    TOO_FEW_STEPS = "too_few_steps", "training stops long before the loss has settled"
    MISSING_ZERO_GRAD = "missing_zero_grad", "gradients of earlier batches are never, or too rarely, cleared"
    WRONG_MODE = "wrong_mode", "the network trains in evaluation mode, or is evaluated in training mode"
    FROZEN_PARAMETERS = (
        "frozen_parameters",
        "parameters that should learn do not: not registered, in no optimizer, frozen, or cut off",
    )
    BROADCAST_SHAPE = "broadcast_shape", "prediction and target broadcast against each other, as (N, 1) does with (N,)"
    BN_TINY_BATCH = "bn_tiny_batch", "batch normalisation estimates its statistics from too few values per channel"
    DEPTH_DEGRADATION = "depth_degradation", "a deep plain network trains worse than a shallower or a residual one"
    OVERFITTING = "overfitting", "the training loss is near zero while held-out performance is poor or falls"
    CAPACITY_TOO_SMALL = "capacity_too_small", "the network cannot represent the task"
    UNSUITABLE_OPTIMIZER = "unsuitable_optimizer", "this kind of optimizer does not suit the problem, whatever its step size"
    NON_FINITE = "non_finite", "NaN or infinity arises in data, activations, loss, gradients or weights"
    REGULARISATION_TOO_STRONG = "regularisation_too_strong", "weight decay, a penalty or dropout holds the fit down"
    UNSCALED_ACCUMULATION = "unscaled_accumulation", "gradients of several micro-batches are summed without dividing by their number"
    CROSS_BATCH_LEAK = "cross_batch_leak", "the output for one sample depends on the other samples of its batch"
