# SPDX-License-Identifier: Apache-2.0
"""Export as a TensorFlow SavedModel for raw text: tokenizer, network and label names.

It runs with TensorFlow and tensorflow-text, without this project. The folder has the layout of
TensorFlow Serving, with the version `1` inside.
"""

import json

import tensorflow as tf

from common.checkpoints.vocab import write_vocab
from common.export.decoder import decoder_usage, write_decoder
from common.export.tokenizing import tokenizing
from common.params.pretraining import TASK

VERSION = "1"
TEXT_SIGNATURE, IDS_SIGNATURE = "serving_default", "token_ids"
FEATURES = ("input_ids", "input_mask", "segment_ids")
# For the card: from rows.features to outputs.
LOADING = "import tensorflow as tf"
LOADING_TEXT = f"{LOADING}\nimport tensorflow_text"
RUNNING = f"""network = tf.saved_model.load("{VERSION}").signatures["{IDS_SIGNATURE}"]
outputs = network(**{{name: tf.constant(each) for name, each in rows.features.items()}})
outputs = {{name: each.numpy() for name, each in outputs.items()}}"""


def check(params, quantize):
    """Any network can be written."""


def write(classifier, folder):
    """Writes `1/` (saved_model.pb, variables/, ...) and the vocabulary.

    Two signatures over one set of variables give the `answers` of the task: serving_default takes
    `text`, or `text_a` and `text_b`, <string>[B]; token_ids the documented features, <int32>[B, T].
    Where the tokenizer is no TensorFlow operation, both take the features.
    """
    model, module = classifier.model, tf.Module(name="classifier")
    # A plain dict of variables: Keras objects would be saved with all their settings.
    module.weights = {name: w.value for name, w in model.weights_by_name().items()}

    def answer(features):
        return model.answers(features) | {name: features[name] for name in model.served_features}

    @tf.function(autograph=False)
    def from_texts(**texts):
        rows = tf.stack([texts[name] for name in classifier.text_names], axis=1)  # [B, K]
        return answer(classifier.text_features(rows))

    @tf.function(autograph=False)
    def from_ids(**features):
        return answer(features)

    ids = {name: tf.TensorSpec([None, None], tf.int32, name) for name in FEATURES}
    module.from_ids = from_ids.get_concrete_function(**ids)
    signatures = {TEXT_SIGNATURE: module.from_ids, IDS_SIGNATURE: module.from_ids}
    if classifier.takes_texts:
        texts = {name: tf.TensorSpec([None], tf.string, name) for name in classifier.text_names}
        module.from_texts = from_texts.get_concrete_function(**texts)
        signatures[TEXT_SIGNATURE] = module.from_texts
    # Without the gradients of custom operations: a served model is not trained.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder / VERSION), signatures, options)
    write_vocab(folder, classifier.vocab)
    write_decoder(classifier, folder)
    if classifier.takes_texts and classifier.params.task == TASK:
        return [f"a [MASK] in a text stays text; the signature {IDS_SIGNATURE} takes its id"]
    if classifier.takes_texts:
        return []
    return [
        "the tokenizer of this vocabulary is no TensorFlow operation, so the model takes token "
        f"ids, which the package tokenizers makes with {classifier.vocab_name}"
    ]


def usage_of_ids(classifier):
    """`usage`, where the model takes ids alone."""
    names = classifier.answer.served
    served = ", ".join(f"`{name}`" for name in names)
    return f"""
In this folder, with `pip install tensorflow tokenizers`:

```python
import numpy as np
import tensorflow as tf
{tokenizing(classifier)}
classifier = tf.saved_model.load("{VERSION}").signatures["{TEXT_SIGNATURE}"]
result = classifier(**{{name: tf.constant(each) for name, each in features.items()}})
print({{name: result[name][0].numpy() for name in {list(names)}}})
```

TensorFlow Serving takes the same features, {", ".join(f"`{name}`" for name in FEATURES)} (int32,
`[batch, tokens]`; `input_mask` is {classifier.mask_meaning}), and answers {served}.
{decoder_usage(classifier, LOADING, RUNNING)}"""


def usage(classifier):
    if not classifier.takes_texts:
        return usage_of_ids(classifier)
    row = dict(zip(classifier.text_names, classifier.example, strict=True))
    body = {"signature_name": TEXT_SIGNATURE, "instances": [row, row]}
    texts = ", ".join(f"{name}=tf.constant([{json.dumps(text)}])" for name, text in row.items())
    served = ", ".join(f"`{name}`" for name in classifier.answer.served)
    return f"""
In this folder, with `pip install tensorflow tensorflow-text`:

```python
import tensorflow as tf
import tensorflow_text  # registers the operations of the tokenizer

classifier = tf.saved_model.load("{VERSION}").signatures["{TEXT_SIGNATURE}"]
result = classifier({texts})
{classifier.answer.reading["saved_model"]}
```

Behind TensorFlow Serving, with this folder as `--model_base_path`, POST to
`/v1/models/NAME:predict`, any number of rows:

```json
{json.dumps(body, indent=2)}
```

Each row of the answer's `predictions` has {served}.

The signature `{IDS_SIGNATURE}` takes {", ".join(f"`{name}`" for name in FEATURES)} instead (int32,
`[batch, tokens]`; `input_mask` is {classifier.mask_meaning}), with the ids of `vocab.txt`.
{decoder_usage(classifier, LOADING_TEXT, RUNNING)}"""
