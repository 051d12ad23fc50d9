# SPDX-License-Identifier: Apache-2.0
"""Export as an ONNX graph: token ids in, logits and probabilities out, any batch size and length.

This module writes the graph operation by operation from the weights; the initializers have the
neutral names. ONNX Runtime fuses its patterns (bias, GELU, residual and layer norm) when it loads
the graph.
"""

import json
import logging
import math

import numpy as np

from common.backbones.backbone import arguments_of_layer
from common.checkpoints.names import no_place_for
from common.checkpoints.vocab import write_vocab
from common.errors import UserError
from common.export.decoder import decoder_usage, write_decoder
from common.export.onnx_files import INPUTS, INT8_FILE, MODEL_FILE, OnnxEngine, require
from common.export.onnx_rotary import rotate, window
from common.export.tokenizing import tokenizing
from common.layers.dot_product_attention import MASKED_SCORE
from common.layers.positions import sinusoids
from common.params.pretraining import TASK
from common.platform.machine import num_cores

OPSET, IR_VERSION = 17, 8  # the first with LayerNormalization; read by ONNX Runtime from 1.12 on


def check(params, quantize):
    require("onnx", "export_format onnx")  # any network can be written
    if quantize is not None:
        if params.task == TASK:
            raise UserError(f"quantize is {quantize}, but the task is {TASK}; leave it out")
        require("onnxruntime.quantization", "quantize int8")


def write(classifier, folder):
    """Writes model.onnx, model_int8.onnx where asked for, and vocab.txt. Returns notes."""
    import onnx

    classifier.check_size("an ONNX file")
    onnx.save(make_model(classifier), folder / MODEL_FILE)
    # The file, as the check of a model in memory copies its weights twice.
    onnx.checker.check_model(str(folder / MODEL_FILE), full_check=True)
    if classifier.quantize == "int8":
        write_int8(folder / MODEL_FILE, folder / INT8_FILE)
    write_vocab(folder, classifier.vocab)
    write_decoder(classifier, folder)
    return []


def write_int8(source, target):
    """Quantises the kernels and the word table to 8 bits, and activations dynamically.

    source: path of the float32 model; target: path of the new one.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,  # a scale for each column of a kernel: columns differ in range
            # Not QInt8: on processors without VNNI, ONNX Runtime adds pairs of products of
            # unsigned activations and signed weights in 16 bits, where they saturate.
            weight_type=QuantType.QUInt8,
        )
    finally:
        logging.root.setLevel(level)


class BertGraph:
    """A network as ONNX operations, in the order of the computation; `write_onnx` of a task begins.

    Shapes: B batch, T tokens, S query tokens, D hidden size, H heads, d = D / H.

    Args:
        cfg: ModelParams.
        weights: {neutral name: <float32> array}.
        is_mask_inverted: bool. `input_mask` is 1 on padding, or else on tokens.
    """

    # Of onnx.TensorProto; the package is optional.
    float32, int32, bool = 1, 6, 9

    def __init__(self, cfg, weights, is_mask_inverted):
        from onnx import helper

        self.helper = helper
        self.nodes, self.initializers = [], {}
        self.scope = ""
        self.cfg, self.weights, self.is_mask_inverted = cfg, weights, is_mask_inverted

    def add(self, op, *inputs, output=None, **attributes):
        """Appends an operation. inputs: names or NumPy arrays. Returns the name of its output."""
        inputs = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        name = f"{self.scope}{op}_{len(self.nodes)}"
        output = output or name
        self.nodes.append(self.helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def constant(self, array, name=None):
        """Adds an array to the graph and returns its name; equal unnamed arrays are added once."""
        if name is None:
            array = np.asarray(array)
            name = f"constant/{array.dtype}_{array.tolist()}".replace(" ", "")
        if name not in self.initializers:
            self.initializers[name] = np.ascontiguousarray(array).reshape(np.shape(array))
        return name

    def mask(self, of_padding):
        """<int32>[B, T], 1 on padding, or else on tokens."""
        if of_padding == self.is_mask_inverted:
            return "input_mask"
        return self.add("Sub", np.int32(1), "input_mask")

    def weight(self, name):
        return self.constant(self.weights[name], name)

    def dense(self, x, name):
        x = self.add("MatMul", x, self.weight(f"{name}/kernel"))
        if f"{name}/bias" not in self.weights:
            return x
        return self.add("Add", x, self.weight(f"{name}/bias"))

    def layer_norm(self, x, name):
        parts = [f"{name}/{part}" for part in ("gamma", "beta") if f"{name}/{part}" in self.weights]
        epsilon = float(self.cfg.layer_norm_epsilon)
        weights = map(self.weight, parts)
        return self.add("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def pooler(self, x, activation):
        """The first dense layer of a head on x: [..., D]; as it is where the head has none."""
        if "pooler/kernel" not in self.weights:
            return x
        x = self.activation(activation, self.dense(x, "pooler"))
        has_norm = "pooler/layer_norm/gamma" in self.weights
        return self.layer_norm(x, "pooler/layer_norm") if has_norm else x

    def backbone(self, first_token_only=False):
        """INPUTS, <int32>[B, T] each -> token vectors [B, T, D]; see `common/backbones`.

        first_token_only: bool. The vector of [CLS] alone, [B, 1, D].
        """
        cfg = self.cfg
        x = self.embeddings()  # [B, T, D]
        # 0 on tokens; on padding a score whose softmax is 0. [B, 1, 1, T]
        mask = self.add("Cast", self.mask(of_padding=True), to=self.float32)
        mask = self.add("Mul", mask, np.float32(MASKED_SCORE))
        mask = self.add("Unsqueeze", mask, np.array([1, 2]))
        for i in range(cfg.num_hidden_layers):
            self.scope = f"encoder/layer_{i}/"
            is_last = i == cfg.num_hidden_layers - 1
            x = self.encoder_layer(x, mask, is_last and first_token_only)
        self.scope = ""
        if cfg.use_pre_normalization:
            x = self.layer_norm(x, "encoder/final_layer_norm")
        return x

    def embeddings(self):
        """Returns [B, T, D]."""
        self.scope = "embeddings/"
        x = self.add("Gather", self.weight("embeddings/word_embeddings"), "input_ids", axis=0)
        projects_sum = self.cfg.family.projects_sum
        if self.cfg.is_factorized and not projects_sum:
            x = self.dense(x, "embeddings/projection")
        if self.cfg.use_position_embedding:
            length = self.add("Shape", "input_ids", start=1, end=2)  # [1], T
            name = "embeddings/position_embeddings"
            table = self.weights.get(name)
            if table is None:
                table = sinusoids(self.cfg.max_position_embeddings, self.cfg.hidden_size)
            table = self.constant(table, name)
            first = np.array([self.cfg.family.first_position])
            last = length if not first[0] else self.add("Add", length, first)
            x = self.add("Add", x, self.add("Slice", table, first, last, np.array([0])))
        if self.cfg.use_segment_embedding and self.cfg.family.num_segments == 1:
            x = self.add("Add", x, self.weight("embeddings/segment_embeddings"))  # [1, D]
        elif self.cfg.use_segment_embedding:
            table = self.weight("embeddings/segment_embeddings")
            x = self.add("Add", x, self.add("Gather", table, "segment_ids", axis=0))
        if "embeddings/layer_norm/gamma" in self.weights:
            x = self.layer_norm(x, "embeddings/layer_norm")
        if self.cfg.is_factorized and projects_sum:
            x = self.dense(x, "embeddings/projection")
        return x

    def pool(self, x):
        """x: [B, T, D], [B, 1, D] for the pooler `first`. Returns [B, D]; see layers/pooling.py."""
        name = self.cfg.pooler_type
        if name == "first":
            return self.add("Squeeze", x, np.array([1]))
        is_real = self.mask(of_padding=False)  # [B, T]
        length = self.add("Squeeze", self.add("Shape", "input_ids", start=1, end=2))
        positions = self.add("Range", np.int64(0), length, np.int64(1))
        positions = self.add("Cast", positions, to=self.int32)  # [T]
        if name == "last":
            last = self.add("Mul", positions, is_real)
            last = self.add("ReduceMax", last, axes=[1], keepdims=1)  # [B, 1]
            is_real, name = self.add("Equal", positions, last), "sum"
        else:  # the first token counts as real
            is_first = self.add("Equal", positions, np.int32(0))
            is_real = self.add("Or", self.add("Cast", is_real, to=self.bool), is_first)
        is_real = self.add("Unsqueeze", is_real, np.array([2]))  # [B, T, 1]
        if name == "max":
            x = self.add("Where", is_real, x, np.float32(-np.inf))
            return self.add("ReduceMax", x, axes=[1], keepdims=0)
        is_real = self.add("Cast", is_real, to=self.float32)
        total = self.add("ReduceSum", self.add("Mul", x, is_real), np.array([1]), keepdims=0)
        if name == "sum":
            return total
        return self.add("Div", total, self.add("ReduceSum", is_real, np.array([1]), keepdims=0))

    def encoder_layer(self, x, mask, first_token_only):
        """x: [B, T, D]. Returns [B, T, D], or of [CLS] alone, [B, 1, D]."""
        shares_layers = self.cfg.family.shares_layers
        name = "encoder/layer_0" if shares_layers else self.scope.removesuffix("/")
        is_pre_norm = self.cfg.use_pre_normalization
        has_norm = f"{name}/attention_layer_norm/gamma" in self.weights
        memory = x
        if is_pre_norm and has_norm:
            memory = self.layer_norm(x, f"{name}/attention_layer_norm")
        asking, residual = memory, x
        if first_token_only:
            asking, residual = self.first_token(memory), self.first_token(x)
        of_layer = {}
        if self.cfg.family.is_rotary:
            of_layer = arguments_of_layer(self.cfg, int(name.rpartition("_")[2]))
            if of_layer["reach"] is not None:
                mask = self.add("Add", mask, window(self, of_layer["reach"], first_token_only))
        theta = of_layer.get("rotary_theta")
        attended = self.attention(
            asking, memory, mask, f"{name}/attention", theta, first_token_only
        )
        x = self.add("Add", attended, residual)
        if is_pre_norm:
            inner = self.layer_norm(x, f"{name}/feed_forward_layer_norm")
            return self.add("Add", self.feed_forward(inner, f"{name}/feed_forward"), x)
        x = self.layer_norm(x, f"{name}/attention_layer_norm")
        x = self.add("Add", self.feed_forward(x, f"{name}/feed_forward"), x)
        return self.layer_norm(x, f"{name}/feed_forward_layer_norm")

    def first_token(self, x):
        return self.add("Slice", x, np.array([0]), np.array([1]), np.array([1]))  # [B, 1, D]

    def attention(self, x, memory, mask, name, theta=None, first_token_only=False):
        """x: [B, T, D]; memory: [B, S, D]; mask: [B, 1, 1 or T, S]. Returns [B, T, D].

        theta: base of rotary positions; None: there are none.
        """
        query = self.split_heads(self.dense(x, f"{name}/query"), (0, 2, 1, 3))  # [B, H, T, d]
        if theta is None:
            key = self.split_heads(self.dense(memory, f"{name}/key"), (0, 2, 3, 1))  # [B, H, d, S]
        else:
            key = self.split_heads(self.dense(memory, f"{name}/key"), (0, 2, 1, 3))
            key = rotate(self, key, theta, self.cfg.head_size)
            key = self.add("Transpose", key, perm=(0, 1, 3, 2))  # [B, H, d, S]
            if not first_token_only:  # which stands at place 0, where nothing is turned
                query = rotate(self, query, theta, self.cfg.head_size)
        value = self.split_heads(self.dense(memory, f"{name}/value"), (0, 2, 1, 3))
        if self.cfg.attention_type == "scaled_dot_product":
            query = self.add("Mul", query, np.float32(self.cfg.head_size**-0.5))
        scores = self.add("Add", self.add("MatMul", query, key), mask)  # [B, H, T, S]
        probabilities = self.add("Softmax", scores, axis=-1)
        context = self.add("MatMul", probabilities, value)  # [B, H, T, d]
        context = self.add("Transpose", context, perm=(0, 2, 1, 3))
        context = self.add("Reshape", context, np.array([0, 0, self.cfg.hidden_size]))
        return self.dense(context, f"{name}/output")

    def split_heads(self, x, perm):
        heads = np.array([0, 0, self.cfg.num_heads, self.cfg.head_size])  # 0: as it is
        return self.add("Transpose", self.add("Reshape", x, heads), perm=perm)

    def activation(self, name, x):
        return ACTIVATIONS[name](self, x)

    def feed_forward(self, x, name):
        """x: [B, T, D]. Returns [B, T, D]."""
        expanded = self.activation(self.cfg.encoder_nonlinearity, self.dense(x, f"{name}/expand"))
        if f"{name}/gate/kernel" in self.weights:
            expanded = self.add("Mul", expanded, self.dense(x, f"{name}/gate"))
        return self.dense(expanded, f"{name}/project")


def gelu_erf(graph, x):
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    erf = graph.add("Erf", graph.add("Div", x, np.float32(math.sqrt(2))))
    doubled = graph.add("Mul", x, graph.add("Add", erf, np.float32(1)))
    return graph.add("Mul", doubled, np.float32(0.5))


def gelu_tanh(graph, x):
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    cubed = graph.add("Mul", graph.add("Pow", x, np.float32(3)), np.float32(0.044715))
    inner = graph.add("Mul", graph.add("Add", x, cubed), np.float32(math.sqrt(2 / math.pi)))
    doubled = graph.add("Mul", x, graph.add("Add", graph.add("Tanh", inner), np.float32(1)))
    return graph.add("Mul", doubled, np.float32(0.5))


# The names of common/layers/activations.py.
ACTIVATIONS = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": lambda graph, x: graph.add("Relu", x),
    "silu": lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", x)),
    "tanh": lambda graph, x: graph.add("Tanh", x),
    "linear": lambda graph, x: x,
}


def make_model(classifier):
    """Returns the onnx.ModelProto of a Classifier."""
    from onnx import TensorProto, helper, numpy_helper

    cfg, data = classifier.params.model, classifier.params.predict_input
    graph = BertGraph(cfg, classifier.weights, data.invert_mask)
    classifier.model.write_onnx(graph)
    if unused := sorted(classifier.weights.keys() - graph.initializers.keys()):
        raise no_place_for(unused)

    def declare(shapes, dtype):
        return [helper.make_tensor_value_info(name, dtype, axes) for name, axes in shapes.items()]

    proto = helper.make_graph(
        graph.nodes,
        "bert_classifier",
        declare({name: ["batch", "tokens"] for name in INPUTS}, TensorProto.INT32),
        declare(classifier.model.onnx_outputs(), TensorProto.FLOAT),
        doc_string=classifier.description,
    )
    written = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bert-classifier",
    )
    for name, array in graph.initializers.items():  # here, as each step above copies them
        written.graph.initializer.append(numpy_helper.from_array(array, name))
    helper.set_model_props(
        written,
        {n: json.dumps(value, ensure_ascii=False) for n, value in classifier.settings.items()},
    )
    return written


def open_engine(path):
    """Returns the Engine that scores a file."""
    return OnnxEngine(path, num_cores())


def usage(classifier):
    shapes = classifier.model.onnx_outputs()
    outputs = " and ".join(f"`{name}`" for name in shapes)
    axes = ", ".join(map(str, next(iter(shapes.values()))))
    read = f"session.run({list(shapes)}, features)"
    read += "[0]" if len(shapes) == 1 else ""
    needed = [name for name in shapes if name != "probabilities"]
    running = f"""session = onnxruntime.InferenceSession("{MODEL_FILE}")
names = {needed}
outputs = dict(zip(names, session.run(names, rows.features)))"""
    int8 = f"""
`{INT8_FILE}` is the same network with 8-bit weights: a quarter of the size, faster, and less exact;
a row's logits vary a little with the rows beside it, as activations share a scale in a batch.
"""
    return f"""
`{MODEL_FILE}` takes {", ".join(f"`{name}`" for name in INPUTS)} (int32, `[batch, tokens]`;
`input_mask` is {classifier.mask_meaning}) and gives {outputs} (float32,
`[{axes}]`).
{int8 if classifier.quantize == "int8" else ""}
In this folder, with `pip install onnxruntime tokenizers`:

```python
import numpy as np
import onnxruntime
{tokenizing(classifier)}
session = onnxruntime.InferenceSession("{MODEL_FILE}")
{", ".join(shapes)} = {read}
{classifier.answer.reading["ids"]}
```
{decoder_usage(classifier, "import onnxruntime", running)}"""
