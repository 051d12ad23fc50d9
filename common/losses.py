# SPDX-License-Identifier: Apache-2.0
"""The losses: cross entropy and its variants, that of each label, and the mean squared error.

Shapes: B rows of a batch, C classes. Every loss is a mean over the B rows. With class weights too,
the sum of weight times loss is divided by B, as in Keras' `class_weight`, and not by the sum of the
weights, as in PyTorch: so accumulating gradients over small batches, or sharing a batch between
devices, gives the update of the one large batch.
"""

import keras
import numpy as np
from keras import ops

# Lower bound of the probability of being wrong before it is raised to gamma: with gamma below 1 the
# gradient at 0 would be infinite.
MIN_ERROR = 1e-7


def cross_entropy(logits, labels, label_smoothing=0.0, focal_gamma=0.0):
    """Cross entropy of each row, with label smoothing and focal weights.

    Label smoothing (Szegedy et al. 2016, section 7): the row's distribution over the classes is
    y = (1 - e) * onehot(label) + e / C. Focal loss (Lin et al. 2017, equation 4): each term is
    multiplied by (1 - p)^gamma. Together: -sum_c y_c (1 - p_c)^gamma log p_c, which is their
    -(1 - p_t)^gamma log p_t at e = 0, and plain cross entropy at e = 0, gamma = 0.

    logits: <float32>[B, C]; labels: <int32>[B]; label_smoothing: float e in [0, 1); focal_gamma:
    float >= 0. Returns <float32>[B].
    """
    if not label_smoothing and not focal_gamma:
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    num_classes = logits.shape[-1]
    log_probabilities = ops.log_softmax(logits, axis=-1)  # [B, C]
    target = ops.one_hot(labels, num_classes, dtype="float32")
    target = (1.0 - label_smoothing) * target + label_smoothing / num_classes
    if focal_gamma:
        error = ops.maximum(-ops.expm1(log_probabilities), MIN_ERROR)  # 1 - p
        target = target * ops.power(error, focal_gamma)
    return -ops.sum(target * log_probabilities, axis=-1)


def r_drop(loss_of, logits, labels, alpha):
    """The loss of rows computed twice, with two dropout masks.

    Liang et al. 2021 (arXiv:2106.14448), half of equation 4, so that with alpha 0 it is the mean
    of the two losses: (L(1) + L(2)) / 2 + alpha / 2 * difference(1, 2).

    loss_of: a loss of this file; logits: <float32>[B, 2, C]; labels: as of loss_of. Returns
    <float32>[].
    """
    first, second = logits[:, 0], logits[:, 1]
    loss = (loss_of(first, labels) + loss_of(second, labels)) / 2
    return loss + alpha / 2 * loss_of.difference(first, second)


def balanced_weights(labels, num_classes):
    """A weight for each class that makes all classes count the same: N / (C * n_c).

    N rows, n_c of class c, C classes that occur: scikit-learn's class_weight="balanced", after King
    and Zeng 2001. Their mean over the N rows is 1. A class that does not occur has weight 0.

    labels: int array [N], N > 0. Returns <float64>[num_classes].
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0)


class ClassificationLoss:
    """Mean over the batch of `cross_entropy` times the weight of the row's label.

    With focal_gamma the weights are the alpha of Lin et al. 2017, equation 5. A plain object, so
    that Keras does not list `weights` among those of the network.

    Args:
        num_classes: int, C.
        class_weights: sequence of C floats, "auto" (those of `balance`, 1 until it is called), or
            None (all 1).
        label_smoothing, focal_gamma: see `cross_entropy`.
    Call:
        logits: <float32>[B, C]; labels: <int32>[B]. Returns <float32>[].
    """

    def __init__(self, num_classes, class_weights=None, label_smoothing=0.0, focal_gamma=0.0):
        self.is_auto, self.weights = class_weights == "auto", None
        self.label_smoothing, self.focal_gamma = label_smoothing, focal_gamma
        if class_weights is not None:
            # A variable, so that the program of a step does not depend on the weights.
            initial = np.ones(num_classes) if self.is_auto else np.array(class_weights)
            self.weights = keras.Variable(
                initial, dtype="float32", trainable=False, name="class_weights"
            )

    def balance(self, labels):
        """Computes the weights for `class_weights: auto` from the labels of all training rows.

        labels: int array [N]. Returns the weights in use, <float32>[C], or None without any.
        """
        if self.is_auto:
            self.weights.assign(balanced_weights(labels, self.weights.shape[0]))
        return None if self.weights is None else np.asarray(self.weights)

    def __call__(self, logits, labels):
        losses = cross_entropy(logits, labels, self.label_smoothing, self.focal_gamma)  # [B]
        if self.weights is not None:
            losses = losses * ops.take(self.weights, labels, axis=0)
        return ops.mean(losses)

    def difference(self, first, second):
        """Mean over rows of (KL(p || q) + KL(q || p)) / 2 of two predictions, <float32>[B, C].

        Liang et al. 2021, equation 2: sum_c (p_c - q_c) (log p_c - log q_c) / 2.
        """
        first, second = (ops.log_softmax(logits, axis=-1) for logits in (first, second))
        terms = (ops.exp(first) - ops.exp(second)) * (first - second)  # [B, C]
        return ops.mean(ops.sum(terms, axis=-1)) / 2


def token_cross_entropy(logits, ids):
    """<float32>[..., V], <int32>[...] -> <float32>[...], the cross entropy of each token."""
    return ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)


class MaskedLmLoss:
    """The losses of masked words, summed over a batch and divided by its masked words, or
    with the scaling "batch_size" by its rows.

    The original's "num_masked" divided by the rows too, and its "precomputed_num_masked" scaled the
    weights where they were read, in float16 (docs/deviations.md).

    Call:
        losses: <float32>[R, P], cross entropy of each word; weights: <float32>[R, P], 1 on masked
        words and 0 on filler; num_rows: <float32>[], None: R. Returns <float32>[].
    """

    def __init__(self, scaling="precomputed_num_masked"):
        self.of_rows = scaling == "batch_size"

    def __call__(self, losses, weights, num_rows=None):
        total = ops.sum(weights * losses)
        if self.of_rows:
            return total / (weights.shape[0] if num_rows is None else num_rows)
        return total / ops.maximum(ops.sum(weights), 1.0)


class WordLoss(ClassificationLoss):
    """The cross entropy of the labelled tokens: their mean, or the original's sum.

    With class weights it is weighted, and still divided by the number of labelled tokens.

    Args:
        num_classes, class_weights: as of ClassificationLoss.
        loss_weight: float or None. If given, the sum over the batch is multiplied by it and divided
            by the number of rows, as in the original, where it is 1 / (labelled tokens in a row).
    Call:
        logits: <float32>[B, T, C]; labels: <int32>[B, T], -1 on tokens without a label. Returns
        <float32>[].
    """

    def __init__(self, num_classes, class_weights=None, loss_weight=None):
        super().__init__(num_classes, class_weights)
        self.loss_weight = loss_weight

    def __call__(self, logits, labels):
        is_labelled = ops.cast(labels >= 0, "float32")
        labels = ops.maximum(labels, 0)
        losses = token_cross_entropy(logits, labels) * is_labelled  # [B, T]
        if self.weights is not None:
            losses = losses * ops.take(self.weights, labels, axis=0)
        if self.loss_weight is not None:
            return ops.sum(losses) * (self.loss_weight / labels.shape[0])
        return ops.sum(losses) / ops.maximum(ops.sum(is_labelled), 1.0)


class MultiLabelLoss:
    """Mean binary cross entropy of a sigmoid for each label, over rows and labels.

    As transformers' `problem_type: multi_label_classification` has it.

    Call:
        logits: <float32>[B, C]; labels: <float32>[B, C], 1 for each label of the row and else 0.
    Returns:
        <float32>[].
    """

    def __call__(self, logits, labels):
        labels = ops.cast(labels, "float32")
        return ops.mean(ops.binary_crossentropy(labels, logits, from_logits=True))

    def difference(self, first, second):
        """As of ClassificationLoss, of each label's two probabilities; mean over the labels too.

        KL(p || q) + KL(q || p) = (p - q) (logit p - logit q).
        """
        return ops.mean((ops.sigmoid(first) - ops.sigmoid(second)) * (first - second)) / 2


class RegressionLoss:
    """Mean squared error of logits <float32>[B, 1] from labels <float32>[B]: <float32>[]."""

    def __call__(self, logits, labels):
        return ops.mean(ops.square(logits[:, 0] - ops.cast(labels, "float32")))

    def difference(self, first, second):
        """Mean square instead of the divergence: Liang et al. 2021, appendix B.1."""
        return ops.mean(ops.square(first - second))


# ---- Soft targets: a teacher's outputs in place of labels ----------------------------------------


def soft_cross_entropy(logits, teacher, temperature=1.0):
    """T^2 KL(p || q) over the last axis, p = softmax(teacher / T), q = softmax(logits / T).

    Hinton et al. 2015 (arXiv:1503.02531, section 2): T^2 keeps the gradient's size whatever T is.
    The divergence is their cross entropy without the entropy of p, which nothing is trained by.

    logits, teacher: <float32>[..., C]; temperature: float > 0. Returns <float32>[...].
    """
    ours, theirs = (ops.log_softmax(each / temperature, axis=-1) for each in (logits, teacher))
    return temperature**2 * ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)


def soft_binary_cross_entropy(logits, teacher, temperature=1.0):
    """As `soft_cross_entropy`, of a sigmoid for each label, and the mean over the labels.

    logits, teacher: <float32>[..., C]. Returns <float32>[...].
    """
    ours, theirs = logits / temperature, teacher / temperature
    terms = sum(
        ops.sigmoid(sign * theirs) * (ops.log_sigmoid(sign * theirs) - ops.log_sigmoid(sign * ours))
        for sign in (1.0, -1.0)
    )
    return temperature**2 * ops.mean(terms, axis=-1)


def soft_square(logits, teacher, temperature=1.0):
    """The mean square of the difference over the last axis, of numbers: <float32>[...]."""
    del temperature  # a number is no distribution
    return ops.mean(ops.square(logits - teacher), axis=-1)
