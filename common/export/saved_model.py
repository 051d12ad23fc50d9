# SPDX-License-Identifier: Apache-2.0
"""Export as a TensorFlow SavedModel for raw text: tokenizer, network and label names.

It runs with TensorFlow and tensorflow-text, without this project. The folder has the layout of
TensorFlow Serving, with the version `1` inside.
"""

import json

import tensorflow as tf

from common.BaseModel import PREDICT
from common.checkpoints.small_files import write_vocab

VERSION = "1"
TEXT_SIGNATURE, IDS_SIGNATURE = "serving_default", "token_ids"
FEATURES = ("input_ids", "input_mask", "segment_ids")


def check(params, quantize):
    """Any network can be written."""


def write(classifier, folder):
    """Writes `1/` (saved_model.pb, variables/, ...) and vocab.txt.

    Two signatures over one set of variables give the task's `export_outputs`: serving_default takes
    `text`, or `text_a` and `text_b`, <string>[B]; token_ids the documented features, <int32>[B, T].
    """
    model, module = classifier.model, tf.Module(name="classifier")
    # A plain dict of variables: Keras objects would be saved with all their settings.
    module.weights = {name: w.value for name, w in model.weights_by_name().items()}

    def answer(features):
        return model.export_outputs(model.build_model(features, PREDICT))

    @tf.function(autograph=False)
    def from_texts(**texts):
        rows = tf.stack([texts[name] for name in classifier.text_names], axis=1)  # [B, K]
        return answer(classifier.text_features(rows))

    @tf.function(autograph=False)
    def from_ids(**features):
        return answer(features)

    texts = {name: tf.TensorSpec([None], tf.string, name) for name in classifier.text_names}
    ids = {name: tf.TensorSpec([None, None], tf.int32, name) for name in FEATURES}
    module.from_texts = from_texts.get_concrete_function(**texts)
    module.from_ids = from_ids.get_concrete_function(**ids)
    signatures = {TEXT_SIGNATURE: module.from_texts, IDS_SIGNATURE: module.from_ids}
    # Without the gradients of custom operations: a served model is not trained.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder / VERSION), signatures, options)
    write_vocab(folder, classifier.vocab)
    return []


def usage(classifier):
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
"""
