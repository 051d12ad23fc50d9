# SPDX-License-Identifier: Apache-2.0
"""A whole params file, and its completion from a checkpoint and the data."""

from typing import Any

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from common.errors import UserError
from common.params import words
from common.params.cs import CsParams
from common.params.distillation import DistillationParams
from common.params.families import BERT, FAMILIES, ROTARY, network_of
from common.params.inputs import (
    EVALUATION,
    INPUTS,
    NAMES_OF_CLASSES,
    OF_FILES,
    EvalInputParams,
    TrainInputParams,
)
from common.params.model import (
    FROM_CHECKPOINT,
    GELU_OF_FAMILY,
    LAYER_NORM_EPSILON,
    LAYER_NORM_EPSILON_OF_FAMILY,
    NONLINEARITIES,
    ModelParams,
)
from common.params.optimizer import WITHOUT_SECTION, OptimizerParams, default_epsilon
from common.params.rules import (
    NUM_OUTPUTS,
    checkpoint_name,
    contradictions,
    fault_list,
    keys_of_task,
    rule_faults,
)
from common.params.run import RunParams
from common.params.values import Key, Section, as_yaml, properties_of, to_path


def as_mapping(section):
    """A Section, a mapping of the file or None as a dict; anything else as it is."""
    if section is None:
        return {}
    return dict(section) if isinstance(section, dict | Section) else section


def derive_inputs(values):
    """Adds the inputs that a file leaves out, as the meanings in `Params` say."""
    known = (*Params.model_fields, "initializer")
    values = {
        name: value for name, value in values.items() if value is not None or name not in known
    }
    for name in INPUTS:
        if isinstance(values.get(name), dict):
            values[name] = words.named_files(values[name], name)
    train = as_mapping(values.get("train_input"))
    if "eval_input" not in values and "train_input" in values and isinstance(train, dict):
        values["eval_input"] = train | EVALUATION
    evaluation = as_mapping(values.get("eval_input"))
    kinds = [each.get("data_processor") for each in (train, evaluation) if isinstance(each, dict)]
    if len(kinds) == 2 and set(kinds) <= set(OF_FILES):
        absent = (key for key in NAMES_OF_CLASSES if evaluation.get(key) is None)
        evaluation = evaluation | {key: train[key] for key in absent if key in train}
        values["eval_input"] = evaluation
    prediction = as_mapping(values.get("predict_input"))
    if isinstance(evaluation, dict) and isinstance(prediction, dict):
        if prediction.get("eval_fraction") is not None:  # the rows that it asks for, not the file
            evaluation = evaluation | {"eval_file": None}
        values["predict_input"] = evaluation | prediction
    return values


class Params(Section):
    """A whole file. `utils.get_params` returns it, and the rest of the program reads it."""

    train_input: TrainInputParams | None = Key(
        None, "Rows to train on. May be absent where eval_input is given."
    )
    eval_input: EvalInputParams = Key(
        ..., "Rows to score. Absent: the keys of train_input, each row once and in order."
    )
    predict_input: EvalInputParams = Key(
        ...,
        "Rows to predict. Keys that are not given are those of eval_input.",
        changes="where and how long",
    )
    model: ModelParams = Key(ModelParams(), "The network. Absent: the checkpoint's.")
    optimizer: OptimizerParams = Key(
        OptimizerParams(**WITHOUT_SECTION),
        "One update of the weights. Absent: adamw with decay, clipping, warm-up and a rate that "
        "falls to 0 at the end of training.",
    )
    distillation: DistillationParams | None = Key(
        None, "What the training learns from another network, its teacher. Absent: nothing."
    )
    runconfig: RunParams = Key(RunParams(), "What to do, and for how long.")
    csconfig: CsParams = Key(
        CsParams(),
        "A CS system, and how it is reached.",
        changes="where and how long",
        compiled=False,
        is_local=True,
    )

    @model_validator(mode="before")
    @classmethod
    def derive_values(cls, values):
        """Derives inputs from one another and epsilon from the precision, moves initializer."""
        if not isinstance(values, dict):
            return values
        model_given = "model" in values
        values = derive_inputs(values)
        if model_given:
            values["model"] = as_mapping(values.get("model"))  # `model:` without keys
        model = values.get("model")
        top = values.get("initializer")
        if top is not None and isinstance(model, dict) and model.get("initializer") in (None, top):
            values["model"] = model = model | {"initializer": values.pop("initializer")}
        optimizer = as_mapping(values.get("optimizer", WITHOUT_SECTION))
        if isinstance(optimizer, dict) and optimizer.get("epsilon") is None:
            model = as_mapping(model)
            policy = model.get("mixed_precision") if isinstance(model, dict) else None
            epsilon = default_epsilon(optimizer.get("optimizer_type"), policy)
            values["optimizer"] = optimizer | {"epsilon": epsilon}
        return values

    @model_validator(mode="after")
    def check_rules_between_keys(self):
        if faults := list(rule_faults(self)):
            raise PydanticCustomError("rules", "{text}", {"text": "", "faults": faults})
        return self

    _label_names: tuple[str, ...] | None = PrivateAttr(None)
    _teacher: Any = PrivateAttr(None)

    @property
    def inputs(self):
        """{name: input section} of those that there are."""
        return {name: section for name in INPUTS if (section := getattr(self, name)) is not None}

    @property
    def task(self):
        """The name of the task, in the table of `model.py`; the same in every input."""
        return self.predict_input.task

    @property
    def shuffle_seed(self):
        """Seed of the order of training rows: train_input's, else the run's; None: not given."""
        seed = None if self.train_input is None else self.train_input.shuffle_seed
        return self.runconfig.tf_random_seed if seed is None else seed

    @property
    def dropout_seed(self):
        """Seed of dropout: the model's, else the run's; None: not given."""
        seed = self.model.dropout_seed
        return self.runconfig.tf_random_seed if seed is None else seed

    def with_runconfig(self, **values):
        """The same params with other runconfig values."""
        runconfig = RunParams.model_validate(dict(self.runconfig) | values)
        return self.model_copy(update={"runconfig": runconfig})

    def with_precision(self, mixed_precision):
        """The same params with another model.mixed_precision; `auto` gets the epsilon of it."""
        model = self.model.model_copy(update={"mixed_precision": mixed_precision})
        epsilon = default_epsilon(self.optimizer.optimizer_type, mixed_precision)
        params = self if self.optimizer.epsilon is not None else self.with_epsilon(epsilon)
        return params.model_copy(update={"model": model})

    def with_epsilon(self, epsilon):
        """The same params with another value of optimizer.epsilon."""
        optimizer = self.optimizer.model_copy(update={"epsilon": epsilon})
        return self.model_copy(update={"optimizer": optimizer})

    @property
    def label_names(self):
        """Tuple of str, the network's outputs in their order; None before `complete`."""
        return self._label_names

    @property
    def teacher(self):
        """Complete Params of the network that the training learns from; None without one."""
        return self._teacher

    def with_teacher(self, teacher):
        """The same params with the complete Params of a teacher, or None: without one."""
        update = {} if teacher is not None else {"distillation": None}
        params = self.model_copy(update=update)
        params._teacher = teacher
        return params

    def with_inputs_of(self, other):
        """The same params with the input sections of other Params."""
        return self.model_copy(update={name: getattr(other, name) for name in INPUTS})

    def with_vocab_file(self, path, checkpoint=None):
        """The same params with this vocabulary in every input that names none.

        checkpoint: path of the checkpoint that should bring one, for a message; None without one.

        Raises:
            UserError: an input names none, and path is None.
        """
        for name, section in self.inputs.items():
            if section.vocab_file is None and path is None:
                text = f"{name}.vocab_file is not given, and"
                if checkpoint is not None:
                    raise UserError(
                        f"{text} checkpoint {checkpoint} has no vocabulary beside its weights; "
                        "copy its vocab.txt or tokenizer.json there, or write vocab_file"
                    )
                raise UserError(
                    f"{text} no checkpoint brings a vocabulary; "
                    "write it in the params file, or give --checkpoint_path"
                )
        return self if path is None else self.with_default("vocab_file", to_path(path))

    def with_case(self, do_lower):
        """The same params with this do_lower, if it is not None, in every input that gives none."""
        update = {
            name: section.model_copy(update={"do_lower": do_lower})
            for name, section in self.inputs.items()
            if do_lower is not None and "do_lower" not in section.model_fields_set
        }
        return self.model_copy(update=update)

    def with_default(self, key, value):
        """The same params with a value in every input that does not give the key."""
        update = {
            name: section.model_copy(update={key: value})
            for name, section in self.inputs.items()
            if getattr(section, key) is None
        }
        return self.model_copy(update=update)

    def complete(self, checkpoint=None, data=None, source="params"):
        """The same params with the values that the checkpoint and the data provide.

        Args:
            checkpoint: dict or None. The checkpoint's values of the model keys that are
                `from_checkpoint` or `fixed_by_checkpoint` (each may be absent or None), and family:
                "huggingface", "google", "cerebras" or "ours". `path`, if there, names the
                checkpoint in messages.
            data: dict or None. num_cls_classes, and if known vocab_size (lines of the vocabulary),
                with is_own_vocab, whether that is the checkpoint's own, and label_names (of the
                network's outputs).
            source: str. The YAML file, for messages.
        Returns:
            Params in which every needed key has a value.
        Raises:
            UserError: a value contradicts the checkpoint or the data, a needed value is missing,
                or a rule between keys is broken; all faults together.
        """
        checkpoint, data = checkpoint or {}, data or {}
        given, pooler = self.model, checkpoint.get("pooler_type")
        of_checkpoint = FAMILIES[checkpoint.get("backbone") or BERT]
        if (
            pooler
            and of_checkpoint.has_normalized_head
            and "pooler_type" not in given.model_fields_set
        ):
            given = given.model_copy(update={"pooler_type": pooler})  # one of two, in its config
        faults = list(contradictions(given, checkpoint, data))
        filled = {name: value for name, value in given if value is not None}
        for name in FROM_CHECKPOINT:
            is_ours = properties_of(ModelParams.model_fields[name]).task in (None, self.task)
            if is_ours and filled.get(name) is None and checkpoint.get(name) is not None:
                filled[name] = checkpoint[name]
        self._fill_defaults(filled, checkpoint, data)
        family = FAMILIES[filled.get("backbone") or BERT]
        if filled.get("backbone") == BERT:
            del filled["backbone"]  # not given means the same: checkpoints of earlier versions
        for key, value in network_of(family, keys_of_task(self.model, self.task)).items():
            if key not in self.model.model_fields_set:
                filled[key] = value
        for key, value in ROTARY.items() if family.is_rotary else ():
            filled.setdefault(key, value)
        silent = f"{checkpoint_name(checkpoint)} does not say it; write it, or copy the file with "
        silent += "its configuration beside its weights"
        for name, field in ModelParams.model_fields.items():
            properties = properties_of(field)
            is_read = name != "num_cls_classes" or self.task in NUM_OUTPUTS
            if properties.needed and is_read and filled.get(name) is None:
                is_silent = properties.from_checkpoint and checkpoint.get("path")
                why = silent if is_silent else properties.needed
                if self.distillation is not None and properties.from_checkpoint and not is_silent:
                    why += ", or distillation.student_layers"
                faults.append((f"model.{name}", f"not given, and {why}"))
        try:
            model = ModelParams.model_validate(filled)
        except ValidationError as error:
            fault = error.errors()[0]
            key = fault["loc"][0]
            origin = "the data" if key == "num_cls_classes" else checkpoint_name(checkpoint)
            raise UserError(
                f"{origin} says {key} is {as_yaml(fault['input'])}, which this "
                f"network cannot have; write model.{key} in {source}, or use another checkpoint"
            ) from None
        completed = self.model_copy(update={"model": model})
        completed._label_names = data.get("label_names")
        reported, faulty = set(), {key for key, _ in faults}
        for key, text in rule_faults(completed):
            name = key.rpartition(".")[2]
            # Once for inputs that share a value.
            if key not in faulty and (name, text) not in reported:
                faults.append((key, text))
                reported.add((name, text))
        if faults:
            raise UserError(fault_list(source, [("", key, text) for key, text in faults]))
        return completed

    def _fill_defaults(self, filled, checkpoint, data):
        """Adds to `filled` the values that neither file nor checkpoint gives but a rule does."""
        family = checkpoint.get("family")
        trained_with = checkpoint.get("encoder_nonlinearity")
        trained_with = NONLINEARITIES.get(trained_with, trained_with)
        form = self.model.encoder_nonlinearity or trained_with or "gelu"
        if form == "gelu":
            is_known = trained_with in ("gelu_erf", "gelu_tanh")
            form = trained_with if is_known else GELU_OF_FAMILY.get(family, "gelu_tanh")
        filled["encoder_nonlinearity"] = form
        filled.setdefault(
            "layer_norm_epsilon", LAYER_NORM_EPSILON_OF_FAMILY.get(family, LAYER_NORM_EPSILON)
        )
        inputs = self.inputs.values()
        sizes = [data.get("vocab_size"), *(section.vocab_size for section in inputs)]
        if any(sizes):
            multiple = self.model.vocab_size_multiple
            rows = -(-max(size for size in sizes if size) // multiple) * multiple
            filled.setdefault("vocab_size", rows)
        longest = max(section.max_sequence_length for section in inputs)
        longest += FAMILIES[filled.get("backbone") or BERT].first_position
        filled.setdefault("max_position_embeddings", longest)
        if data.get("num_cls_classes") is not None:
            filled.setdefault("num_cls_classes", data["num_cls_classes"])

    def to_yaml(self):
        """The effective values as YAML, which `get_params` reads as equal Params."""
        sections = self.model_dump(mode="json")
        for name, section in sections.items():
            if section is None or name == "predict_input":
                continue  # predict_input in full: keys that it leaves out come from eval_input
            fields = type(getattr(self, name)).model_fields
            sections[name] = {
                key: value
                for key, value in section.items()
                if value is not None or fields[key].default is not None
            }
        sections = {name: section for name, section in sections.items() if section is not None}
        return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


def differences(old, new):
    """The differences between two Params.

    Returns:
        List of (dotted key, old value, new value); values are plain Python, None if absent.
    """
    return plain_differences(old.model_dump(mode="json"), new.model_dump(mode="json"))


def plain_differences(old: dict, new: dict, prefix=""):
    """`differences` of two mappings."""
    changes: list[tuple[str, Any, Any]] = []
    for name in old | new:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += plain_differences(before, after, f"{prefix}{name}.")
        elif before != after:
            changes.append((f"{prefix}{name}", before, after))
    return changes
