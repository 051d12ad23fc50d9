# SPDX-License-Identifier: Apache-2.0
"""Rules between keys, and between a params file, its checkpoint and its data.

Each function yields faults, (dotted key, text that names both values); a key that is None breaks
no rule.
"""

from common.console import counted
from common.params import documents, families, pretraining, records, words
from common.params.distillation import distillation_faults
from common.params.inputs import (
    PROCESSORS_OF_TASK,
    READERS,
    RECORDS,
    TEXT_FILES,
    InputParams,
)
from common.params.model import COMPUTED_KEYS, SHAPES, Uniform
from common.params.optimizer import PiecewiseConstantSchedule
from common.params.values import as_yaml, keys_of, properties_of


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
    # A head for words, or for masked ones, reads no vector of a row: the key says nothing there.
    has_pooler = checkpoint.get("task") not in (pretraining.TASK, *words.TASKS)
    for key in COMPUTED_KEYS:
        value, trained = getattr(model, key), checkpoint.get(key)
        if trained is not None and value != trained and (has_pooler or key != "pooler_type"):
            text = f"is {value}, but {name} was trained with {trained}; write {trained}"
            yield f"model.{key}", text
    classes, in_data = model.num_cls_classes, data.get("num_cls_classes")
    if classes is not None and in_data is not None and classes != in_data:
        has = counted(in_data, "class", "classes")
        text = f"is {classes}, but the data has {has}; write {in_data}"
        yield "model.num_cls_classes", f"{text}, or leave the key out"
    rows, tokens = checkpoint.get("vocab_size"), data.get("vocab_size")
    padding = rows if data.get("is_own_vocab") else MAX_PADDING_ROWS
    if rows is not None and tokens is not None and not 0 <= rows - tokens <= padding:
        yield (
            "vocab_file",
            f"has {tokens} tokens, but {name} has embeddings of {rows}; give the vocabulary it was "
            "trained with, or leave the key out",
        )


def keys_of_task(section, task):
    """The keys of a Section that a task reads: set of str."""
    fields = type(section).model_fields
    only = {key: properties_of(field).tasks for key, field in fields.items()}
    return {key for key, tasks in only.items() if not tasks or task in tasks}


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
    for key, text in families.network_faults(model, keys_of_task(model, params.task)):
        yield f"model.{key}", text
    if model.family.shares_layers and optimizer.layer_wise_lr_decay != 1:
        text = f"is {optimizer.layer_wise_lr_decay}, and the layers of {model.family.title} share"
        yield "optimizer.layer_wise_lr_decay", f"{text} their weights; leave the key out"
    yield from input_faults(params)
    yield from task_faults(params)
    for name, section in params.inputs.items():
        longest, rows = section.max_sequence_length, model.max_position_embeddings
        if model.use_position_embedding and rows and longest > model.num_positions:
            text = f"{longest} exceeds model.max_position_embeddings {rows}"
            if model.family.first_position:
                text += f", of which {model.family.title} leaves {model.family.first_position} out"
            most = model.num_positions
            yield f"{name}.max_sequence_length", f"{text}; write {most} or less"
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
    yield from length_faults(params)
    yield from distillation_faults(params)
    is_answered = not params.predict_input.version_2_with_negative
    if run.tune_thresholds and params.task == words.ANSWERING and is_answered:
        yield (
            "runconfig.tune_thresholds",
            "is true, but version_2_with_negative is false, so that every question has an answer "
            "and there is no threshold; leave the key out",
        )
    given = params.model.null_score_diff_threshold
    if run.tune_thresholds and run.is_training and given is not None:
        yield (
            "model.null_score_diff_threshold",
            f"is {given:g}, and runconfig.tune_thresholds is true, which finds it; leave one of "
            "them out",
        )
    if run.best_metric is None:
        for key in ("best_metric_mode", "early_stopping_patience", "export_best"):
            if getattr(run, key) is not None:
                text = "is given without best_metric; write that too, as best_metric: eval/loss"
                yield f"runconfig.{key}", text
    if params.train_input is None and run.is_training:
        yield "train_input", f"not given; mode {run.mode} needs it"


def length_faults(params):
    """`rule_faults` of how long to train."""
    run, train = params.runconfig, params.train_input
    if run.max_seconds is not None:
        for key in ("max_steps", "num_epochs"):
            if getattr(run, key) is not None:
                yield (
                    "runconfig.max_seconds",
                    f"is {run.max_seconds:g}, and {key} is {getattr(run, key):g}; training has one "
                    "length, so leave one of the two out",
                )
        if train is not None and not train.repeat:
            yield (
                "train_input.repeat",
                "is false, which reads the rows once, and runconfig.max_seconds is "
                f"{run.max_seconds:g}; leave one of the two out",
            )
    if run.num_epochs is None:
        return
    if run.max_steps is not None:
        yield (
            "runconfig.num_epochs",
            f"is {run.num_epochs:g}, and max_steps is {run.max_steps}; training has one length, so "
            "leave one of the two out",
        )
    if train is not None and not train.repeat and run.num_epochs > 1:
        yield (
            "train_input.repeat",
            f"is false, which reads the rows once, and runconfig.num_epochs is {run.num_epochs:g}; "
            "leave one of the two out",
        )


def device_faults(params):
    """`rule_faults` of sharing a batch between devices."""
    run, train = params.runconfig, params.train_input
    if not run.is_distributed:
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
            f"{counted(size, 'row')} cannot be shared equally by runconfig.num_devices "
            f"{run.num_devices}; write a multiple of {run.num_devices}",
        )


def optimizer_faults(optimizer):
    """`rule_faults` between keys of the optimizer."""
    place, schedules = "optimizer.learning_rate", optimizer.learning_rate
    placed = {place: schedules}
    for key in ("warmup_ratio", "decay", "decay_end"):
        value = getattr(optimizer, key)
        if value not in (None, 0.0) and not isinstance(schedules, float):
            yield (
                f"optimizer.{key}",
                f"is {value}, and learning_rate is given as schedules, which say the rate of every "
                "step; leave the key out, or write a number as learning_rate",
            )
    falls = optimizer.decay in ("linear", "cosine")
    if optimizer.decay_end and isinstance(schedules, float) and not falls:
        text = f"is {optimizer.decay_end}, but decay is {optimizer.decay or 'not given'}"
        yield (
            "optimizer.decay_end",
            f"{text}; write decay: linear or cosine, or leave the key out",
        )
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
    stages = optimizer.grad_accum_schedule
    if stages is not None:
        steps, place = [step for step, _ in stages], "optimizer.grad_accum_schedule"
        listed = as_yaml([list(stage) for stage in stages])
        if steps[:1] != [0]:
            yield place, f"is {listed}, whose first pair is not of step 0; begin with [0, 1]"
        elif sorted(set(steps)) != steps:
            yield place, f"is {listed}, whose steps do not increase; put them in order"
        if optimizer.grad_accum_steps != 1:
            yield (
                "optimizer.grad_accum_steps",
                f"is {optimizer.grad_accum_steps}, and grad_accum_schedule is given, which says it "
                "for every step; leave one of the two out",
            )
    if optimizer.max_gradient_norm and optimizer.max_gradient_value:
        yield (
            "optimizer.max_gradient_value",
            f"is {optimizer.max_gradient_value}, and max_gradient_norm is "
            f"{optimizer.max_gradient_norm}; gradients are clipped by one of the two, so leave "
            "the other out",
        )
    if optimizer.optimizer_type == "lamb" and optimizer.lazy_word_embeddings:
        yield (
            "optimizer.lazy_word_embeddings",
            "is true, but lamb takes the norm of the update of the whole table; leave it out, or "
            "write optimizer_type: adamw",
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


# The least and largest number of outputs of a task that has as many as its labels have names; one
# that is not here has no model.num_cls_classes.
NUM_OUTPUTS = {
    "classification": (2, None),
    "multi_label": (1, None),
    "regression": (1, 1),
    words.TAGGING: (2, None),
}


def task_faults(params):
    """`rule_faults` of keys that another task has."""
    task, classes = params.task, params.model.num_cls_classes
    for name, section in params:
        for key, field in type(section).model_fields.items() if section is not None else ():
            value, only = getattr(section, key), properties_of(field).tasks
            if only and task not in only and value != field.default:
                text = f"is {as_yaml(value)}, which is for task: {' or '.join(only)}"
                text += f", but task is {task}"
                yield f"{name}.{key}", f"{text}; leave the key out"
    if task == pretraining.TASK:
        for key, text in pretraining.network_faults(params.model):
            yield f"model.{key}", text
        yield from pretraining.objective_faults(params)
        family = params.model.family
        if not (family.has_next_sentence or params.model.disable_nsp):
            text = f"is false, and {family.title} has no next-sentence head; write it as true"
            yield "model.disable_nsp", text
    least, most = NUM_OUTPUTS.get(task, (0, 0))
    if classes is not None and task not in NUM_OUTPUTS:
        text = f"is {classes}, but task: {task} has no number of classes; leave the key out"
        yield "model.num_cls_classes", text
    elif classes is not None and not least <= classes <= (most or classes):
        wanted = "2 or more; for a number a row, write task: regression" if least == 2 else "1"
        yield "model.num_cls_classes", f"is {classes}, but task: {task} takes {wanted}"
    train = params.train_input
    if train is not None and params.runconfig.mode == "train_and_eval":
        is_same = params.eval_input.data_dir == train.data_dir
        if is_same and train.data_processor in RECORDS and train.eval_fraction is None:
            text = "is that of train_input, whose records would be scored; write another folder"
            yield "eval_input.data_dir", text
    for name, section in params.inputs.items():
        processor = section.data_processor
        for other, implying in PROCESSORS_OF_TASK.items():
            allowed = (*implying, words.TFDS) if other in words.TASKS else implying
            if processor not in allowed if task == other else processor in implying:
                text = f"{processor} does not go with task: {task}; those of task: {other}"
                yield f"{name}.data_processor", f"{text} are {', '.join(allowed)}"
                break
        faults = [*pretraining.masking_faults(section), *pretraining.record_faults(section)]
        faults += words.word_faults(section)
        for key, readers in READERS.items() if task == pretraining.TASK else ():
            field = type(section).model_fields[key]
            if processor not in readers and getattr(section, key) != field.default:
                text = f"belongs to {' and '.join(readers)}, but data_processor is {processor}"
                faults.append((key, f"{text}; leave it out"))
        if processor == documents.DOCUMENTS:
            is_training = name == "train_input" and params.runconfig.is_training
            faults += documents.document_faults(section, is_training)
            faults += records.writer_faults(section)
        has_pairs = section.sentence_pairs != "none" and processor not in pretraining.MLM_ONLY
        if task == pretraining.TASK and not (has_pairs or params.model.disable_nsp):
            of = "another data_processor"
            if processor == documents.DOCUMENTS:
                of = f"{name}.sentence_pairs: next"
            text = f"is false, which needs pairs of texts; write disable_nsp: true, or {of}"
            yield "model.disable_nsp", text
        for key, text in faults:
            yield f"{name}.{key}", text
        label = section.label_column or "label"
        if processor == TEXT_FILES and label in (section.text_columns or ()):
            text = f"has {label}, which label_column names, too; leave the label out of the texts"
            yield f"{name}.text_columns", text
        if task == words.ANSWERING and not section.add_special_tokens:
            text = "is false, but [CLS] stands for no answer; leave the key out"
            yield f"{name}.add_special_tokens", text
        if params.model.span_softmax == "row" and section.packing in ("packed", "auto"):
            text = f"is row, but packed rows have no padding; write {name}.packing: buckets"
            yield "model.span_softmax", text
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
