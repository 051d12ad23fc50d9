# SPDX-License-Identifier: Apache-2.0
"""Compares parts of a training step with those of Keras: dropout, layer norm, AdamW's update.

    python benchmarks/parts.py [--rows 13] [--tokens 66] [--calls 30]

Prints milliseconds of processor time on one thread, forward and backward: the least of the calls,
which run in turn. Other load on the machine makes a call longer, never shorter.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402 - after the settings
import tensorflow as tf  # noqa: E402

from common.layers.dropout import Dropout, DropoutClock  # noqa: E402
from common.layers.layer_norm import LayerNorm  # noqa: E402
from common.optimizers.factory import make_optimizer  # noqa: E402
from common.params import OptimizerParams  # noqa: E402

WIDTH, HEADS, VOCAB_SIZE = 384, 12, 30522


def there_and_back(layer, x, **arguments):
    """Returns a function that computes a layer and the gradients of its input and weights."""
    weights = [weight.value for weight in layer.weights if weight.trainable]

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **arguments)
        return y, tape.gradient(y, [x, *weights], output_gradients=x)

    return run


def updates():
    """Returns functions that apply AdamW, with clipping, to the word table: ours and Keras'."""
    gradient = tf.random.stateless_normal((VOCAB_SIZE, WIDTH), (1, 2), stddev=1e-3)
    tables = [tf.Variable(gradient) for _ in range(2)]
    cfg = OptimizerParams(
        learning_rate=1e-5, epsilon=1e-7, max_gradient_norm=1.0, weight_decay_rate=0.01
    )
    ours = make_optimizer({"embeddings/word_embeddings": tables[0]}, cfg)
    keras_adamw = keras.optimizers.AdamW(1e-5, weight_decay=0.01, clipnorm=1.0)
    table = keras.Variable(tables[1])
    keras_adamw.build([table])
    return {
        "ours": tf.function(lambda: ours.apply([gradient]), autograph=False),
        "Keras": tf.function(lambda: keras_adamw.apply([gradient], [table]), autograph=False),
    }


def milliseconds(calls, count):
    """Returns {name: milliseconds of the fastest of `count` calls}, after two that compile."""
    times = {name: [] for name in calls}
    for number in range(count + 2):
        for name, call in calls.items():
            start = time.process_time()
            call()  # synchronous on the CPU
            if number > 1:
                times[name].append(1e3 * (time.process_time() - start))
    return {name: min(each) for name, each in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=13)
    parser.add_argument("--tokens", type=int, default=66)
    parser.add_argument("--calls", type=int, default=30)
    args = parser.parse_args()
    hidden = tf.random.stateless_normal((args.rows, args.tokens, WIDTH), (1, 2))
    scores = tf.random.stateless_normal((args.rows, HEADS, args.tokens, args.tokens), (1, 2))

    def dropouts(x):
        return {
            "ours": there_and_back(Dropout(0.1, DropoutClock(1)), x, training=True),
            "Keras": there_and_back(keras.layers.Dropout(0.1, seed=1), x, training=True),
        }

    ours, keras_own = LayerNorm(1e-12), keras.layers.LayerNormalization(epsilon=1e-12)
    for norm in (ours, keras_own):
        norm.build(hidden.shape)
    norms = {
        "ours": there_and_back(ours, hidden, training=True),
        "Keras": there_and_back(keras_own, hidden),
    }
    parts = {
        f"dropout {hidden.shape}": dropouts(hidden),
        f"dropout {scores.shape}": dropouts(scores),
        f"layer norm {hidden.shape}": norms,
        f"AdamW ({VOCAB_SIZE}, {WIDTH})": updates(),
    }
    print(f"{'':32}{'ours':>8}{'Keras':>8}  ms")
    for title, calls in parts.items():
        times = milliseconds(calls, args.calls)
        print(f"{title:32}{times['ours']:8.2f}{times['Keras']:8.2f}", flush=True)


if __name__ == "__main__":
    main()
