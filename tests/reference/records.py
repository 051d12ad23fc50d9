# SPDX-License-Identifier: Apache-2.0
"""Pre-training records by TensorFlow's own writer and protocol buffers, a record at a time."""

import hashlib
import json

import tensorflow as tf

# In the order of `decoded_sha256` of the digests that Google's program left.
FEATURES = (
    *("input_ids", "input_mask", "segment_ids"),
    *("masked_lm_positions", "masked_lm_ids", "masked_lm_weights", "next_sentence_labels"),
)
# What Model Garden calls them.
MODEL_GARDEN = {"input_ids": "input_word_ids", "segment_ids": "input_type_ids"}


def read_examples(paths):
    """Returns {feature: list of numbers} of each tf.train.Example of files, in order."""
    rows = []
    for content in tf.data.TFRecordDataset([str(path) for path in paths]).as_numpy_iterator():
        features = tf.train.Example.FromString(content).features.feature
        rows.append(
            {
                name: list(getattr(feature, feature.WhichOneof("kind")).value)
                for name, feature in features.items()
            }
        )
    return rows


def decoded_sha256(rows):
    """The hash by which two runs of Google's program are compared."""
    lines = [
        json.dumps([[int(v) for v in row[name]] for name in FEATURES], separators=(",", ":"))
        for row in rows
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_tokens(paths):
    """Returns the tokens of each tf.train.SequenceExample of files: lists of str."""
    rows = []
    for content in tf.data.TFRecordDataset([str(path) for path in paths]).as_numpy_iterator():
        steps = tf.train.SequenceExample.FromString(content).feature_lists.feature_list["tokens"]
        rows.append([step.bytes_list.value[0].decode() for step in steps.feature])
    return rows


def example(row, names=None):
    """Returns the bytes of a tf.train.Example of {feature: list}. names: {feature: another}."""
    message = tf.train.Example()
    for feature, values in row.items():
        stored = message.features.feature[(names or {}).get(feature, feature)]
        is_float = any(isinstance(value, float) for value in values)
        (stored.float_list if is_float else stored.int64_list).value.extend(values)
    return message.SerializeToString()


def sequence_example(tokens):
    """Returns the bytes of a tf.train.SequenceExample of str."""
    message = tf.train.SequenceExample()
    steps = message.feature_lists.feature_list["tokens"].feature
    for token in tokens:
        steps.add().bytes_list.value.append(token.encode())
    return message.SerializeToString()


def write_file(path, contents, compression=None):
    """Writes a TFRecord file of bytes and returns its path."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for content in contents:
            writer.write(content)
    return path


def blank_line_documents(text):
    """Documents as google-research/bert reads them: blank lines stand between them."""
    documents = [[]]
    for line in text.split("\n"):
        if line.strip():
            documents[-1].append(line.strip())
        else:
            documents.append([])
    return documents
