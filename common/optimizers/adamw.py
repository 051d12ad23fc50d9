# SPDX-License-Identifier: Apache-2.0
"""AdamW as the original Cerebras model and google-research/bert (optimization.py) compute it.

It differs from the paper's (Loshchilov & Hutter 2019) and from Keras': no bias correction unless
asked for, epsilon outside the root, and decay by the learning rate times the weight.
"""

import re

import tensorflow as tf

from common.optimizers.loss_scale import make_loss_scale
from common.optimizers.schedules import make_schedule


# One compiled loop over a weight and its slots instead of nine passes over memory. A function of
# one weight, not of all: equal shapes share the program, and TensorFlow runs several at once.
@tf.function(jit_compile=True, autograph=False)
def _update(weight, m, v, gradient, scale, step_size, decay, beta1, beta2, epsilon, is_finite):
    gradient = gradient * scale
    new_m = beta1 * m + (1.0 - beta1) * gradient
    new_v = beta2 * v + (1.0 - beta2) * gradient * gradient
    new_weight = weight - (step_size * new_m / (tf.sqrt(new_v) + epsilon) + decay * weight)
    m.assign(tf.where(is_finite, new_m, m))
    v.assign(tf.where(is_finite, new_v, v))
    weight.assign(tf.where(is_finite, new_weight, weight))


class AdamW:
    """One step: clip all gradients together, update m and v, move every weight.

        g   = gradient * min(1, max_gradient_norm / |all gradients|)
        m   = beta1 * m + (1 - beta1) * g
        v   = beta2 * v + (1 - beta2) * g^2
        u   = m / (sqrt(v) + epsilon) [* sqrt(1 - beta2^t) / (1 - beta1^t), bias correction]
        w  -= learning_rate * (u + weight_decay_rate * w)    decay unless the name is excluded

    Args:
        weights: {neutral name: tf.Variable <float32>} to train.
        cfg: OptimizerParams.
    Attributes:
        step: <int64> variable []: updates so far, the run's global step.
        state: {name: variable}: everything a checkpoint has to keep besides the weights.
    """

    def __init__(self, weights, cfg):
        self.cfg = cfg
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.learning_rate = make_schedule(cfg.learning_rate, cfg.disable_lr_steps_reset)
        self.loss_scale = make_loss_scale(cfg)
        self.weights = dict(weights)
        self.m, self.v = (
            {name: tf.Variable(tf.zeros_like(w), trainable=False) for name, w in weights.items()}
            for _ in range(2)
        )
        patterns = [re.compile(pattern) for pattern in cfg.exclude_from_weight_decay]
        self.decayed = {
            name for name in weights if not any(pattern.search(name) for pattern in patterns)
        }

    @property
    def state(self):
        slots = {f"adamw/m/{name}": slot for name, slot in self.m.items()}
        slots |= {f"adamw/v/{name}": slot for name, slot in self.v.items()}
        return {"global_step": self.step, **slots, **self.loss_scale.state}

    def scale_loss(self, loss):
        """Returns the loss whose gradients `apply` takes. loss: <float>[]."""
        return loss * tf.cast(self.loss_scale.factor, loss.dtype)

    def apply(self, gradients):
        """Makes one update and advances `step`.

        Args:
            gradients: tensors or IndexedSlices of the scaled loss, in the order of `weights`.
        Returns:
            {"train/lr", "train/unclipped_grad_norm", "train/loss_scale"}: <float32>[], as used.
        """
        cfg = self.cfg
        # Rows of a table that occur twice in a batch are added before anything is squared.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        scaled_norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients]))
        norm = scaled_norm / self.loss_scale.factor
        is_finite = tf.math.is_finite(norm)
        scale = 1.0 / self.loss_scale.factor
        if cfg.max_gradient_norm is not None:
            scale *= cfg.max_gradient_norm / tf.maximum(norm, cfg.max_gradient_norm)

        rate = self.learning_rate(self.step)
        step_size = rate
        if cfg.use_bias_correction:
            updates = tf.cast(self.step + 1, tf.float32)
            step_size *= tf.sqrt(1.0 - cfg.beta2**updates) / (1.0 - cfg.beta1**updates)
        # Only a dynamic scale may skip an update; elsewhere a non-finite number must show.
        do_update = is_finite if self.loss_scale.skips_overflow else tf.constant(True)
        for (name, weight), gradient in zip(self.weights.items(), gradients, strict=True):
            decay = rate * cfg.weight_decay_rate if name in self.decayed else tf.constant(0.0)
            _update(
                weight,
                self.m[name],
                self.v[name],
                gradient,
                scale,
                step_size,
                decay,
                tf.constant(cfg.beta1, tf.float32),
                tf.constant(cfg.beta2, tf.float32),
                tf.constant(cfg.epsilon, tf.float32),
                do_update,
            )
        report = {
            "train/lr": rate,
            "train/unclipped_grad_norm": norm,
            "train/loss_scale": tf.identity(self.loss_scale.factor),
        }
        self.loss_scale.update(is_finite)
        self.step.assign_add(1)
        return report
