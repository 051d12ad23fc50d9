# SPDX-License-Identifier: Apache-2.0
"""The neutral names: this project's name for every weight of BERT, whatever file it comes from.

They are the paths of the Keras variables below the model (`BaseModel.weights_by_name`). A format
(`formats/`) lists the tensors of a file, each with its neutral name (`StoredTensor`). `weights_of`
turns the list into a dict of neutral name to `LazyTensor`. Any other object with a `shape` that
`numpy.asarray` turns into a float32 array can stand in its place.

Shapes: V vocabulary size, P positions, S segments (2), D hidden size, F filter size, C classes,
E embedding size; factorised word embeddings have the shape VE. Where a family projects the sum of
the tables, all of `embeddings/` before the projection has E in place of D, and so has the input of
`mlm/transform` D in place of E.
Kernels are [in, out]: `x @ kernel + bias`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np

from common.errors import UserError

# Name -> shape. {i} is the number of an encoder layer, from 0.
WEIGHTS = {
    # The sum of the tables is normalised (post-norm only).
    "embeddings/word_embeddings": "VD",
    "embeddings/projection/kernel": "ED",  # factorised embeddings only
    "embeddings/projection/bias": "D",  # where the sum of the tables, of width E, is projected
    "embeddings/position_embeddings": "PD",
    "embeddings/segment_embeddings": "SD",  # Google: token_type_embeddings
    "embeddings/layer_norm/gamma": "D",  # gain
    "embeddings/layer_norm/beta": "D",  # offset
    # Self-attention; the heads lie side by side along the second D of query, key and value.
    "encoder/layer_{i}/attention/query/kernel": "DD",
    "encoder/layer_{i}/attention/query/bias": "D",
    "encoder/layer_{i}/attention/key/kernel": "DD",
    "encoder/layer_{i}/attention/key/bias": "D",
    "encoder/layer_{i}/attention/value/kernel": "DD",
    "encoder/layer_{i}/attention/value/bias": "D",
    "encoder/layer_{i}/attention/output/kernel": "DD",
    "encoder/layer_{i}/attention/output/bias": "D",
    "encoder/layer_{i}/attention_layer_norm/gamma": "D",
    "encoder/layer_{i}/attention_layer_norm/beta": "D",
    "encoder/layer_{i}/feed_forward/expand/kernel": "DF",
    "encoder/layer_{i}/feed_forward/expand/bias": "F",
    "encoder/layer_{i}/feed_forward/gate/kernel": "DF",  # gated feed-forward only
    "encoder/layer_{i}/feed_forward/project/kernel": "FD",
    "encoder/layer_{i}/feed_forward/project/bias": "D",
    "encoder/layer_{i}/feed_forward_layer_norm/gamma": "D",
    "encoder/layer_{i}/feed_forward_layer_norm/beta": "D",
    # Behind the last layer (pre-norm only).
    "encoder/final_layer_norm/gamma": "D",
    "encoder/final_layer_norm/beta": "D",
    # The head: pooler is the first dense layer, pre-trained with the next-sentence head.
    "pooler/kernel": "DD",
    "pooler/bias": "D",
    "pooler/layer_norm/gamma": "D",  # of a normalised head, in place of the bias
    "classifier/kernel": "DC",
    "classifier/bias": "C",
    "qa/kernel": "D2",  # logits of start and end, of every token
    "qa/bias": "2",
    # What a distillation trains beside the network: to the teacher's width, which is G here.
    "distillation/kernel": "DG",
    # The heads of pre-training, which a classifier does not use.
    "nsp/kernel": "D2",  # is next, is not next
    "nsp/bias": "2",
    "mlm/projection/kernel": "DE",  # factorised embeddings only
    "mlm/transform/kernel": "EE",
    "mlm/transform/bias": "E",
    "mlm/layer_norm/gamma": "E",
    "mlm/layer_norm/beta": "E",
    "mlm/output_bias": "V",  # added to hidden @ word_embeddings.T
    # ELECTRA's discriminator, of every token: whether another word stood in its place.
    "discriminator/transform/kernel": "DD",
    "discriminator/transform/bias": "D",
    "discriminator/output/kernel": "D1",
    "discriminator/output/bias": "1",
    "mlm/output_embeddings": "VE",  # in place of the word embeddings, where they are not shared
}

# Beginnings of the names that a classifier does not have: heads of other tasks, and what only
# pre-norm or factorised embeddings add. A new head is listed here, too.
NOT_OF_A_CLASSIFIER = (
    *("qa/", "distillation/", "nsp/", "mlm/", "discriminator/"),
    *("encoder/final_layer_norm/", "embeddings/projection/"),
    *("encoder/layer_{i}/feed_forward/gate/", "pooler/layer_norm/"),
)

# Axis -> the key of the params with its length.
KEY_OF_AXIS = {
    "V": "model.vocab_size",
    "P": "model.max_position_embeddings",
    "D": "model.hidden_size",
    "F": "model.filter_size",
    "C": "model.num_cls_classes",
    "E": "model.embedding_size",
}


class LazyTensor:
    """A weight that is not read yet: the shape is known, `numpy.asarray` reads the values.

    Args:
        shape: tuple of int, of the array that `read` returns.
        read: callable without arguments. Returns the array, of any float dtype.
    """

    def __init__(self, shape, read):
        self.shape = tuple(shape)
        self.read = read

    def __array__(self, dtype=None, copy=None):
        """<float32>[shape], read from the file at each call."""
        if copy is False:
            raise ValueError(
                "a LazyTensor is read from its file at each call; it has no memory to share"
            )
        with np.errstate(over="ignore"):  # a number beyond float32 is infinite: `check_finite`
            return np.asarray(self.read(), dtype or np.float32)


FLOAT_DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class StoredTensor:
    """The description of a tensor in a file; its values are not read."""

    name: str  # in the file
    shape: tuple  # in the file
    dtype: str  # NumPy's name: "float32", "bfloat16", "int64"
    read: Callable  # without arguments; returns the array, of that shape
    weight: str | None = None  # its neutral name
    is_state: bool = False  # training state (optimizer slot, global step), not the network
    is_transposed: bool = False  # a kernel, stored [out, in]

    @property
    def num_bytes(self):
        """Size of the uncompressed values; 0 for a type that NumPy does not have, such as text."""
        try:
            return math.prod(self.shape) * np.dtype(self.dtype).itemsize
        except TypeError:
            return 0


def weights_of(path, tensors):
    """{neutral name: LazyTensor <float32>} of a checkpoint's network, none read yet.

    Kernels are [in, out]. A tensor without a neutral name keeps the name of the file. path: of the
    checkpoint, for messages; tensors: list of StoredTensor, of which training state is left out.

    Raises:
        UserError: two tensors have the same neutral name, or one has no floating-point type.
    """
    weights = {}
    for tensor in tensors:
        if tensor.is_state:
            continue
        name = tensor.weight or tensor.name
        if tensor.weight and tensor.dtype not in FLOAT_DTYPES:
            raise UserError(
                f"{path}: {tensor.name} is of type {tensor.dtype}; it has to be one of "
                f"{', '.join(FLOAT_DTYPES)}, so take the model before quantization"
            )
        if name in weights:
            raise UserError(
                f"{path} holds {tensor.name} and another tensor of the same meaning ({name}); "
                "save the model again with its program"
            )
        shape, read = tensor.shape, tensor.read
        if tensor.is_transposed and len(shape) == 2:
            shape, read = shape[::-1], partial(transposed, read)
        weights[name] = LazyTensor(shape, read)
    return weights


def notes_on_state(tensors):
    """Notes for a report on the tensors that `weights_of` leaves out: list of str."""
    left_out = sum(tensor.is_state for tensor in tensors)
    return [f"{left_out} tensors of its training state (optimizer, step): skipped"] * bool(left_out)


def transposed(read):
    return np.ascontiguousarray(read().T)


# ---- Names of other programs ---------------------------------------------------------------------

# The number of an encoder layer: layer_3/, layer.3., layers.3.
LAYER = re.compile(r"(?<=ayer[_.]|yers\.)(0|[1-9]\d{0,3})(?=[/.])")


def parts_of(module):
    """The neutral names of a module's two tensors."""
    return ("gamma", "beta") if module.endswith("layer_norm") else ("kernel", "bias")


def names_within(modules, separator, words=None):
    """{name in another program: neutral name} of the tensors of modules.

    modules: {module of the program: neutral module}; words: its names for the two tensors of a
    module, where it has other names than ours.
    """
    return {
        f"{foreign}{separator}{word}": f"{module}/{part}"
        for foreign, module in modules.items()
        for word, part in zip(words or parts_of(module), parts_of(module), strict=True)
    }


def neutral_in(names, name):
    """The neutral name of another program's tensor, or None.

    names: {name in the program: neutral name}, both with {i} for the number of a layer.
    """
    layer = LAYER.search(name)
    if layer is None:
        return names.get(name)
    pattern = f"{name[: layer.start()]}{{i}}{name[layer.end() :]}"
    return names.get(pattern, "").replace("{i}", layer[0]) or None


def foreign_in(names, name):
    """The name of a weight in another program. names: {neutral name: name in the program}.

    Raises UserError where the program has no such weight.
    """
    pattern, layer = pattern_of(name)
    if pattern not in names:
        raise no_place_for([name])
    return names[pattern].replace("{i}", str(layer))


def no_place_for(names):
    """The UserError of a format that cannot hold weights which somebody added to the network."""
    return UserError(
        f"the network has {', '.join(names)}, which the programs of this format would not compute; "
        "export it as saved_model or keras"
    )


# ---- Neutral names -------------------------------------------------------------------------------


def pattern_of(name):
    """`encoder/layer_3/attention/key/bias` -> (`encoder/layer_{i}/attention/key/bias`, 3).

    The number is None for a weight outside the encoder layers.
    """
    match = re.match(r"encoder/layer_(\d+)/", name)
    if match is None:
        return name, None
    return f"encoder/layer_{{i}}/{name[match.end() :]}", int(match[1])


def axes_of(name):
    """The axes of a weight as letters: "VD"; "" for a name that is not in the table."""
    return WEIGHTS.get(pattern_of(name)[0], "")


def num_outputs(weights, layer):
    """How many outputs a layer of a head has; None where there is no such layer.

    weights: {neutral name: anything with a shape}.
    """
    bias = weights.get(f"{layer}/bias")
    return None if bias is None else math.prod(bias.shape)


def standard_names(num_layers):
    """Every name of the embeddings and the encoder of a BERT, in the order of the network."""
    embeddings = [name for name in WEIGHTS if re.match("embeddings/(?!projection/)", name)]
    layer = [name for name in WEIGHTS if "{i}" in name and "/gate/" not in name]
    return embeddings + [name.replace("{i}", str(i)) for i in range(num_layers) for name in layer]


def geometry(shapes):
    """{key of ModelParams: int}, what the shapes of weights show; none shows the number of heads.

    shapes: {neutral name: tuple of int}.
    """
    sizes = {}
    layers = [i for _, i in map(pattern_of, shapes) if i is not None]
    if layers:
        sizes["num_hidden_layers"] = max(layers) + 1
    for key, name, axis in (
        ("vocab_size", "embeddings/word_embeddings", 0),
        ("hidden_size", "embeddings/word_embeddings", 1),
        ("embedding_size", "embeddings/projection/kernel", 0),
        ("hidden_size", "embeddings/projection/kernel", 1),
        ("max_position_embeddings", "embeddings/position_embeddings", 0),
        ("filter_size", "encoder/layer_0/feed_forward/expand/kernel", 1),
    ):
        if len(shapes.get(name, ())) == len(axes_of(name)):
            sizes[key] = shapes[name][axis]
    return sizes
