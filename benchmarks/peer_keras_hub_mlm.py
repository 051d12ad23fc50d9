# SPDX-License-Identifier: Apache-2.0
"""One measurement of KerasHub's BertMaskedLM on TensorFlow, started by `pretraining.py`.

    .venv-kh/bin/python benchmarks/peer_keras_hub_mlm.py --folder DIR --vocab FILE ...

Uses `fit` of Keras on raw text, with KerasHub's preprocessor: masks of 15%, places gathered. Its
rows are stretches of DIR/lines.txt long enough that none has padding.
"""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_hub
import tensorflow as tf
from peer_settings import BATCH, LENGTH, WARMUP, masked_words_parser
from worker import Gate, StepGate

PREDICTIONS = 19  # of a row of 128 tokens, as ours
NETWORKS = {
    "minilm": {"num_layers": 6, "num_heads": 12, "hidden_dim": 384, "intermediate_dim": 1536},
    "base": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072},
}


def stretches(folder):
    """Returns texts of 160 words each, which are more than 128 tokens."""
    words = (Path(folder) / "lines.txt").read_text("utf-8").split()
    return [" ".join(words[first : first + 160]) for first in range(0, len(words) - 160, 160)]


def make_model(args):
    keras.utils.set_random_seed(1)
    if args.precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    models = keras_hub.models
    tokenizer = models.BertTokenizer(args.vocab, lowercase=True)
    backbone = models.BertBackbone(
        vocabulary_size=tokenizer.vocabulary_size(), dropout=0.1, **NETWORKS[args.network]
    )
    preprocessor = models.BertMaskedLMPreprocessor(
        tokenizer,
        sequence_length=LENGTH,
        mask_selection_rate=0.15,
        mask_selection_length=PREDICTIONS,
    )
    model = models.BertMaskedLM(backbone, preprocessor=preprocessor)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.01, global_clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, weighted_metrics=[])
    return model


def main():
    args = masked_words_parser(__doc__.splitlines()[0], NETWORKS, rows=("full",)).parse_args()
    gate = Gate({"versions": {"keras_hub": keras_hub.__version__, "keras": keras.__version__}})
    with gate.serving():
        steps = StepGate(gate, WARMUP, args.steps, BATCH * LENGTH)

        class AfterStep(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                steps.after_step()

        texts = tf.data.Dataset.from_tensor_slices(stretches(args.folder)).repeat().batch(BATCH)
        make_model(args).fit(
            texts, epochs=1, steps_per_epoch=1_000_000, verbose=0, callbacks=[AfterStep()]
        )


if __name__ == "__main__":
    main()
