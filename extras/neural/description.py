# SPDX-License-Identifier: Apache-2.0
"""A `.neural` file as the values of a params file: which networks are recognised, and as what.

An embedding, a stack of BERT's layers and a head; what it cannot be is refused with its line.
"""

from dataclasses import replace

from common.errors import UserError
from common.params.documents import DOCUMENTS
from common.params.inputs import TEXT_FILES
from common.params.words import TAGGED_FILES
from common.params.yaml_file import NEURAL, read_text
from extras.neural.language import Argument, Refused, named_arguments, read_network

# {layer: {argument: kind}}, in the order in which they may stand without names, and what an
# argument is that is left out.
WHOLE, NUMBER, TEXT, FLAG = "a whole number", "a number", "a text", "True or False"
TYPES = {WHOLE: (int,), NUMBER: (int, float), TEXT: (str,), FLAG: (bool,)}
POOLERS = {"FirstToken": "first", "GlobalAveragePooling1D": "mean", "GlobalMaxPooling1D": "max"}
LAYERS = {
    "Embedding": {"input_dim": WHOLE, "output_dim": WHOLE, "mask_zero": FLAG, "weights": TEXT},
    "LayerNormalization": {"epsilon": NUMBER},
    "Dropout": {"rate": NUMBER},
    "MultiHeadAttention": {"num_heads": WHOLE, "d_model": WHOLE, "dropout": NUMBER},
    **{name: {"units": WHOLE, "activation": TEXT} for name in ("Dense", "Output")},
    "Activation": {"activation": TEXT},
    **{name: {} for name in ("Add", *POOLERS)},
}
DEFAULTS = {"mask_zero": True, "weights": None, "dropout": 0.0, "activation": "linear"}

# What follows what: (layer, {argument: the key of `model` that it is, or (what it has to be,)}). A
# layer in brackets may be left out.
DROPOUT = ("(Dropout)", {"rate": "dropout_rate"})
NORM = ("LayerNormalization", {"epsilon": "layer_norm_epsilon"})
RESIDUAL = (DROPOUT, ("Add", {}), NORM)
HEADS = {"num_heads": "num_heads", "d_model": "hidden_size", "dropout": "attention_dropout_rate"}
ATTENTION = ("MultiHeadAttention", HEADS)
EXPANSION = ("Dense", {"units": "filter_size", "activation": "encoder_nonlinearity"})
LEFT_OUT = ("(Dropout)", {})  # of the walkthrough of this language, and not of BERT
PROJECTION = ("Dense", {"units": "hidden_size", "activation": ("linear",)})
ENCODER_LAYER = (ATTENTION, *RESIDUAL, EXPANSION, LEFT_OUT, PROJECTION, *RESIDUAL)

# {activation of the last layer of a head for rows: (task, its loss)}; what a head for words has.
WORD_LOSS = "sparse_categorical_crossentropy"
ROW_TASKS = {
    "softmax": ("classification", WORD_LOSS),
    "sigmoid": ("multi_label", "binary_crossentropy"),
    "linear": ("regression", "mean_squared_error"),
}
METRICS = ("accuracy", "f1", "loss", "precision", "recall")  # which an evaluation has in any case
RATE = {"learning_rate": "learning_rate"}
ADAM = RATE | {"beta_1": "beta1", "beta_2": "beta2", "epsilon": "epsilon"}
CORRECTED = {"optimizer_type": "adamw", "use_bias_correction": True}  # as in Keras and PyTorch
# {optimizer: ({argument: key}, what else it has)}
OPTIMIZERS = {
    "Adam": (ADAM, {"optimizer_type": "adam"}),
    "AdamW": (ADAM | {"weight_decay": "weight_decay_rate"}, CORRECTED),
    "SGD": (RATE, {"optimizer_type": "sgd"}),
}
SETTINGS = {"epochs": ("runconfig", "num_epochs"), "batch_size": ("train_input", "batch_size")}
SETTINGS |= {"validation_split": ("train_input", "eval_fraction")}  # of train: (section, key)


def read_neural(path):
    """Returns values and lines, as `read_yaml` of the params file that says the same, and notes:
    list of str, what the network here has otherwise than the text.

    Raises UserError: the first fault, with its line and what was expected.
    """
    try:
        reader = Reader(read_network(read_text(path, NEURAL).removeprefix("\ufeff")))
    except RecursionError:
        raise UserError(f"{path}: brackets or macros nested too deep to read") from None
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    return reader.values, reader.lines, [f"{path}: {note}" for note in reader.notes]


def checked(call, kinds, defaults=DEFAULTS):
    """Returns the Call with {name: Argument} as arguments, of the kinds that they have to be."""
    if kinds is None:
        text = f"{call.name} is neither a layer nor defined; expected {', '.join(LAYERS)}"
        raise Refused(call.place, text)
    given = named_arguments(call, kinds, defaults)
    for name, argument in given.items():
        if type(argument.value) not in TYPES[kinds[name]]:
            text = f"{name} of {call.name} is {argument.value!r}; expected {kinds[name]}"
            raise Refused(call.place if argument.line == call.line else argument.line, text)
    left_out = {name: Argument(name, defaults[name], call.line) for name in kinds.keys() - given}
    return replace(call, arguments=given | left_out)


class Reader:
    """Reads a Network: `values`, `lines` and `notes` as of `read_neural`, without the path."""

    def __init__(self, network):
        self.network, self.at, self.notes = network, 0, []
        self.values = {"train_input": {"batch_size": 32}, "model": {}, "runconfig": {}}
        self.lines = {(section,): network.line for section in self.values}
        layers = network.entries.get("layers", Argument("layers", [], network.end))
        self.layers = [checked(call, LAYERS.get(call.name)) for call in layers.value]
        self.read_embedding()
        self.read_stack()
        self.check_figures(self.read_head())
        if self.next_name() is not None:
            raise self.unexpected("the end of the layers behind the head")
        if optimizer := network.entries.get("optimizer"):
            if optimizer.name not in OPTIMIZERS:
                text = f"optimizer is {optimizer.name}; expected {' or '.join(OPTIMIZERS)}"
                raise Refused(optimizer.line, text)
            keys, self.values["optimizer"] = OPTIMIZERS[optimizer.name]
            self.lines["optimizer",] = optimizer.line
            self.read_settings(optimizer, {each: ("optimizer", keys[each]) for each in keys})
        if train := network.entries.get("train"):
            self.read_settings(train, SETTINGS)

    def next_name(self, further=0):
        """The name of a layer that was not yet read; None behind the last."""
        at = self.at + further
        return self.layers[at].name if at < len(self.layers) else None

    def unexpected(self, expected):
        name = self.next_name()
        place = self.network.end if name is None else self.layers[self.at].place
        return Refused(place, f"found {name or 'the end of the layers'}; expected {expected}")

    def set(self, section, key, value, line):
        self.values[section] = self.values[section] | {key: value}
        self.lines[section, key] = line

    def follow(self, *pattern, where=""):
        """Reads the layers of a pattern, sets the keys that it says, and returns the last Call."""
        for name, meanings in pattern:
            if self.next_name() != name.strip("()"):
                if name.startswith("("):
                    continue
                raise self.unexpected(f"{name} {where}")
            layer = self.layers[self.at]
            self.at += 1
            note = f"line {layer.line}: {layer.name} is left out: BERT has none there"
            self.notes += [note] * (meanings is LEFT_OUT[1] and note not in self.notes)
            for name, meaning in meanings.items():
                self.follow_argument(layer.name, layer.arguments[name], meaning)
        return self.layers[self.at - 1]

    def follow_argument(self, layer, argument, meaning):
        value, model = argument.value, self.values["model"]
        text = f"{argument.name} of {layer} is {value!r}"
        if not isinstance(meaning, str):
            if value not in meaning:
                raise Refused(argument.line, f"{text}; expected {' or '.join(map(repr, meaning))}")
        elif model.get(meaning, value) != value:
            text += f", but line {self.lines['model', meaning]} has {model[meaning]!r}"
            raise Refused(argument.line, f"{text}; expected the same")
        elif meaning not in model:
            self.set("model", meaning, value, argument.line)

    def read_embedding(self):
        length = self.network.entries.get("input") or Argument("input", None, self.network.line)
        if not isinstance(length.value, tuple) or [type(each) for each in length.value] != [int]:
            raise Refused(length.line, f"input is {length.value!r}; expected tokens, as (512,)")
        self.set("train_input", "max_sequence_length", length.value[0], length.line)
        behind = (each.name for each in self.layers[1:] if each.name not in (NORM[0], "Dropout"))
        is_narrow = next(behind, None) == "Dense"  # a matrix leads from it to the layers
        self.table_width = "embedding_size" if is_narrow else "hidden_size"
        table = {"input_dim": "vocab_size", "output_dim": self.table_width, "mask_zero": (True,)}
        weights = self.follow(("Embedding", table), where="first").arguments["weights"]
        last = self.follow((f"({NORM[0]})", NORM[1]), DROPOUT, *[PROJECTION] * is_narrow)
        sizes = self.values["model"]
        if sizes.get("embedding_size") == sizes["hidden_size"]:
            raise Refused(last.place, "Dense is as wide as Embedding; expected another width")
        if weights.value is None:  # else there are as many positions as they have
            self.set("model", "max_position_embeddings", length.value[0], length.line)
        else:
            self.set("runconfig", "checkpoint_path", weights.value, weights.line)

    def read_stack(self):
        first, attention = self.at, ATTENTION[0]
        while self.at == first or self.next_name() == attention:
            self.follow(*ENCODER_LAYER, where="in a layer of BERT's")
        layers = [each for each in self.layers[first : self.at] if each.name == attention]
        macros = {str(each.macro) for each in layers}
        line = layers[0].used or layers[0].line
        self.set("model", "num_hidden_layers", len(layers), line)
        self.values["model"].setdefault("dropout_rate", 0.0)
        is_shared = any(name.startswith("Shared") for name in macros)
        if is_shared and len(macros) > 1:
            text = f"layers of {' and '.join(sorted(macros))}; expected those of one macro"
            raise Refused(line, f"{text}, as Shared means the same layer")
        if is_shared or self.table_width == "embedding_size":  # else a checkpoint may say it
            self.set("model", "backbone", "albert" if is_shared else "electra", line)

    def read_head(self):
        """Returns the loss that the head has."""
        name, train, loss = self.next_name(), self.values["train_input"], WORD_LOSS
        line = self.network.end if name is None else self.layers[self.at].line
        self.lines["train_input", "data_processor"] = line
        if name in POOLERS:
            self.set("model", "pooler_type", POOLERS[name], line)
            activation = "gelu" if self.values["model"].get("backbone") == "electra" else "tanh"
            dense = ("Dense", {"units": "hidden_size", "activation": (activation,)})
            dropout = ("(Dropout)", {"rate": "cls_dropout_rate"})
            self.follow((name, {}), dense, dropout, where=f"behind {name}")
            task, loss = ROW_TASKS[self.read_last("num_cls_classes", tuple(ROW_TASKS))]
            train |= {"data_processor": TEXT_FILES, "text_columns": "text", "task": task}
        elif name == "Dense" and self.next_name(1) == "LayerNormalization":
            dense = ("Dense", {"units": self.table_width, "activation": "mlm_nonlinearity"})
            self.follow(dense, NORM)
            self.read_last("vocab_size", ("softmax",))
        elif name in ("Dropout", "Dense", "Output"):
            self.follow(("(Dropout)", {"rate": "encoder_output_dropout_rate"}))
            self.values["model"].setdefault("encoder_output_dropout_rate", 0.0)
            self.read_last("num_cls_classes", ("softmax",))
            train |= {"data_processor": TAGGED_FILES}
        elif name is None:
            self.notes.append(f"line {line}: no head is given; it gets one of masked words")
        else:
            raise self.unexpected(
                f"another layer, or a head: {', '.join(POOLERS)} for an answer a row, Dense and "
                "LayerNormalization for masked words, Dropout or Output for a label a token"
            )
        if "data_processor" not in train:
            train |= {"data_processor": DOCUMENTS, "sentence_pairs": "none"}
            self.set("model", "disable_nsp", True, line)
        return loss

    def read_last(self, key, activations):
        """Reads the last layer of a head, and Activation behind it. Returns its activation."""
        last = "Output" if self.next_name() == "Output" else "Dense"
        is_apart = self.next_name(1) == "Activation"
        pattern = [(last, {"units": key, "activation": ("linear",) if is_apart else activations})]
        pattern += [("Activation", {"activation": activations})] * is_apart
        return self.follow(*pattern, where="last").arguments["activation"].value

    def check_figures(self, loss):
        """Refuses a loss other than that of the head, and metrics that there are not."""
        for key, accepted in (("loss", (loss,)), ("metrics", METRICS)):
            entry = self.network.entries.get(key) or Argument(key, [], 0)
            for value in entry.value if isinstance(entry.value, list) else [entry.value]:
                if value not in accepted:
                    text = f"{key} has {value!r}; with this head expected "
                    raise Refused(entry.line, text + " or ".join(map(repr, accepted)))

    def read_settings(self, call, keys):
        """Sets the keys of optimizer or train. keys: {argument: (section, key)}."""
        call = checked(call, dict.fromkeys(keys, NUMBER), dict.fromkeys(keys.keys() - RATE.keys()))
        for name, argument in call.arguments.items():
            if argument.value is not None:
                self.set(*keys[name], argument.value, argument.line)
