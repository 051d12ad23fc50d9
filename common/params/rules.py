# SPDX-License-Identifier: Apache-2.0
"""Rules between keys, and between a params file, its checkpoint and its data.

Each function yields faults, (dotted key, text that names both values); a key that is None breaks
no rule.
"""

from common.params.inputs import InputParams
from common.params.model import COMPUTED_KEYS, SHAPES, Uniform
from common.params.optimizer import PiecewiseConstantSchedule
from common.params.values import as_yaml, keys_of


def checkpoint_name(checkpoint):
    return f"checkpoint {checkpoint['path']}" if checkpoint.get("path") else "the checkpoint"


# Published models have up to 1,000 rows more than tokens; cased and uncased BERT differ by 1,526.
MAX_PADDING_ROWS = 1024


def contradictions(model, checkpoint, data):
    """Values in the file that contradict the checkpoint or the data."""
    name = checkpoint_name(checkpoint)
    for key in SHAPES:
        value, trained = getattr(model, key), checkpoint.get(key)
        if value is not None and trained is not None and value != trained:
            yield (
                f"model.{key}",
                f"is {value}, but {name} has {trained}; write {trained}, leave the key out, or use "
                "another checkpoint",
            )
    for key in COMPUTED_KEYS:
        value, trained = getattr(model, key), checkpoint.get(key)
        if trained is not None and value != trained:
            text = f"is {value}, but {name} was trained with {trained}; write {trained}"
            yield f"model.{key}", text
    classes, in_data = model.num_cls_classes, data.get("num_cls_classes")
    if classes is not None and in_data is not None and classes != in_data:
        text = f"is {classes}, but the data has {in_data} classes; write {in_data}"
        yield "model.num_cls_classes", f"{text}, or leave the key out"
    rows, tokens = checkpoint.get("vocab_size"), data.get("vocab_size")
    padding = rows if data.get("is_own_vocab") else MAX_PADDING_ROWS
    if rows is not None and tokens is not None and not 0 <= rows - tokens <= padding:
        yield (
            "vocab_file",
            f"has {tokens} tokens, but {name} has embeddings of {rows}; give the vocabulary it was "
            "trained with, or leave the key out",
        )


def near_divisor(number, wish):
    """The divisor of a number nearest to a wish; 1 if none is within 1000."""
    for distance in range(1000):
        for divisor in (wish - distance, wish + distance):
            if divisor > 0 and number % divisor == 0:
                return divisor
    return 1


def rule_faults(params):
    """Every broken rule between keys."""
    model, optimizer, run = params.model, params.optimizer, params.runconfig
    if model.hidden_size and model.num_heads and model.hidden_size % model.num_heads:
        near = near_divisor(model.hidden_size, model.num_heads)
        text = f"{model.num_heads} does not divide hidden_size {model.hidden_size}"
        yield "model.num_heads", f"{text}; choose a divisor such as {near}"
    yield from training_faults(model)
    yield from input_faults(params)
    yield from task_faults(params)
    for name, section in params.inputs.items():
        longest, positions = section.max_sequence_length, model.max_position_embeddings
        if model.use_position_embedding and positions and longest > positions:
            text = f"{longest} exceeds model.max_position_embeddings {positions}"
            yield f"{name}.max_sequence_length", f"{text}; write {positions} or less"
        if section.vocab_size and model.vocab_size and section.vocab_size > model.vocab_size:
            text = f"{section.vocab_size} exceeds model.vocab_size {model.vocab_size}"
            yield f"{name}.vocab_size", f"{text}; take the vocabulary the weights were trained with"
    initializer = model.initializer
    if isinstance(initializer, Uniform) and initializer.minval >= initializer.maxval:
        text = f"{initializer.minval} is not below maxval {initializer.maxval}"
        yield "model.initializer.minval", text
    yield from optimizer_faults(optimizer)
    if run.enable_distributed and optimizer.loss_scaling_factor == "dynamic":
        yield (
            "optimizer.loss_scaling_factor",
            "dynamic does not go with runconfig.enable_distributed true, as in the original; "
            "write tf_dynamic or a number",
        )
    yield from device_faults(params)
    if run.best_metric is None:
        for key in ("best_metric_mode", "early_stopping_patience", "export_best"):
            if getattr(run, key) is not None:
                text = "is given without best_metric; write that too, as best_metric: eval/loss"
                yield f"runconfig.{key}", text
    if params.train_input is None and run.is_training:
        yield "train_input", f"not given; mode {run.mode} needs it"


def device_faults(params):
    """`rule_faults` of sharing a batch between devices."""
    run, train = params.runconfig, params.train_input
    if not (run.enable_distributed or run.multiple_workers):
        if run.num_devices is not None:
            text = f"{run.num_devices} is given without enable_distributed; write that too, as true"
            yield "runconfig.num_devices", text
        return
    if run.device is not None:
        key = "enable_distributed" if run.enable_distributed else "multiple_workers"
        text = f"{run.device} is one device, and {key} is true; leave one of the two out"
        yield "runconfig.device", text
    if train is None:
        return
    if train.packing == "packed":
        text = "packed rows cannot be shared by several devices; write buckets or auto"
        yield "train_input.packing", text
    size = train.batch_size
    if run.num_devices and not run.multiple_workers and size % run.num_devices:
        yield (
            "train_input.batch_size",
            f"{size} rows cannot be shared equally by runconfig.num_devices {run.num_devices}; "
            f"write a multiple of {run.num_devices}",
        )


def optimizer_faults(optimizer):
    """`rule_faults` between keys of the optimizer."""
    place, schedules = "optimizer.learning_rate", optimizer.learning_rate
    placed = {place: schedules}
    if isinstance(schedules, tuple):
        if not schedules:
            yield place, "the list is empty; write a schedule in it"
        placed = {f"{place}.{i}": schedule for i, schedule in enumerate(schedules)}
        for place in list(placed)[:-1]:
            if placed[place].length is None:
                yield f"{place}.steps", "not given; every schedule of a list but the last needs it"
    for place, schedule in placed.items():
        if isinstance(schedule, PiecewiseConstantSchedule):
            boundaries, values = schedule.boundaries, schedule.values
            if sorted(set(boundaries)) != list(boundaries):
                yield f"{place}.boundaries", f"{list(boundaries)} do not increase"
            if len(values) != len(boundaries) + 1:
                text = f"has {len(values)} rates for {len(boundaries)} boundaries"
                yield f"{place}.values", f"{text}; write {len(boundaries) + 1}"
    if optimizer.max_gradient_norm and optimizer.max_gradient_value:
        yield (
            "optimizer.max_gradient_value",
            f"is {optimizer.max_gradient_value}, and max_gradient_norm is "
            f"{optimizer.max_gradient_norm}; gradients are clipped by one of the two, so leave "
            "the other out",
        )
    least, most = map(optimizer.loss_scale_setting, ("min_loss_scale", "max_loss_scale"))
    if not least <= optimizer.initial_loss_scale <= most:
        text = f"{optimizer.initial_loss_scale} is not between min_loss_scale {least}"
        yield "optimizer.initial_loss_scale", f"{text} and max_loss_scale {most}"


def training_faults(model):
    """`rule_faults` between keys of the model, about the classes and the training."""
    for name in model.freeze:
        count, layers = name.removeprefix("layers:"), model.num_hidden_layers
        if count != name and layers and int(count) > layers:
            text = f"names {name}, but num_hidden_layers is {layers}; write layers:{layers} or less"
            yield "model.freeze", text
    classes, weights = model.num_cls_classes, model.class_weights
    if classes and isinstance(weights, tuple) and len(weights) != classes:
        text = f"has {len(weights)} numbers, but num_cls_classes is {classes}; write one for each"
        yield "model.class_weights", text
    rates = model.dropout_rate, model.attention_dropout_rate, model.cls_dropout_rate
    if model.r_drop_alpha and not any(rates):
        yield (
            "model.r_drop_alpha",
            f"is {model.r_drop_alpha}, but without dropout both passes give the same answer; "
            "write dropout_rate: 0.1, or leave it out",
        )


def input_faults(params):
    """`rule_faults` between the inputs."""
    inputs = params.inputs
    first, *others = inputs
    for name in others:
        names = keys_of(InputParams, same_in_inputs="always")
        reads_training_rows = name == "eval_input" and inputs[name].eval_file is None
        if reads_training_rows and inputs[first].eval_fraction != inputs[name].eval_fraction:
            names += ("eval_fraction",)
        elif reads_training_rows and inputs[name].eval_fraction is not None:
            names += keys_of(InputParams, same_in_inputs="with eval_fraction")
        for key in names:
            value, of_first = getattr(inputs[name], key), getattr(inputs[first], key)
            if value != of_first:
                text = f"is {as_yaml(value)}, but {first} has {as_yaml(of_first)}"
                yield f"{name}.{key}", f"{text}; give both the same"


# The only task with a key, and the least and largest number of outputs of a task.
TASK_OF_KEY = {
    "model.class_weights": "classification",
    "model.focal_gamma": "classification",
    "model.label_smoothing": "classification",
    "runconfig.calibrate_temperature": "classification",
    "runconfig.tune_thresholds": "multi_label",
}
NUM_OUTPUTS = {"classification": (2, None), "regression": (1, 1)}


def task_faults(params):
    """`rule_faults` of keys that another task has."""
    task, classes = params.task, params.model.num_cls_classes
    for dotted, only in TASK_OF_KEY.items():
        name, key = dotted.split(".")
        section = getattr(params, name)
        value = getattr(section, key)
        if task != only and value != type(section).model_fields[key].default:
            text = f"is {as_yaml(value)}, which is for task: {only}, but task is {task}"
            yield dotted, f"{text}; leave the key out"
    least, most = NUM_OUTPUTS.get(task, (1, None))
    if classes is not None and not least <= classes <= (most or classes):
        wanted = "2 or more; for a number a row, write task: regression" if least == 2 else "1"
        yield "model.num_cls_classes", f"is {classes}, but task: {task} takes {wanted}"
    for name, section in params.inputs.items():
        separator = section.label_separator
        files = [file for file in (section.train_file, section.eval_file) if file is not None]
        in_cells = [file for file in files if file.lower().endswith((".csv", ".tsv"))]
        if task == "regression" and section.label_names is not None:
            text = "given, but task is regression, whose labels are numbers; leave one of them out"
            yield f"{name}.label_names", text
        if task != "multi_label" and separator is not None:
            text = f"is {as_yaml(separator)}, but task is {task}, with one label a row"
            yield f"{name}.label_separator", f"{text}; write task: multi_label"
        elif task == "multi_label" and in_cells and separator is None:
            text = f"not given, and a cell of {in_cells[0]} holds all labels of a row; write what"
            yield f"{name}.label_separator", f'{text} stands between them, such as ";"'


def fault_list(source, faults):
    """The text that lists all faults of a file.

    faults: list of (where, dotted key, text). where: "line 14", "--max_steps" or "".
    """
    noun = "key" if len(faults) == 1 else "keys"
    lines = ["  " + ": ".join(filter(None, fault)) for fault in faults]
    return "\n".join([f"{source}: {len(faults)} {noun} to correct", *lines])
