# SPDX-License-Identifier: Apache-2.0
"""Every key that a YAML file may hold: its type, range, default and meaning.

`utils.get_params` reads a file into `Params`; the rest of the project sees checked, frozen values:
`params.model.hidden_size`, `params.runconfig.max_steps`. Read the file of a section to learn its
keys. Their names and meaning are those of the original Cerebras TensorFlow BERT classifier (Model
Zoo 1.7.1).

The sections are the top level of a file, which is `Params` in `params.py`:

    train_input: {...}      inputs.py     rows to train on
    eval_input: {...}       inputs.py     rows to score; absent: as train_input, in order
    predict_input: {...}    inputs.py     as eval_input, with the keys given here in place
    model: {...}            model.py      the network
    optimizer: {...}        optimizer.py  one update of the weights
    runconfig: {...}        run.py        what to do, for how long, what to keep
    csconfig: {...}         cs.py         a CS system, and how it is reached

`values.py` has the kinds of value and `Key`, with which a field says all that the program has to
know of it; `keys.py` answers from the fields, `rules.py` has what keys demand of one another.

An empty value (`null`) means "not given". A number may be written as text: PyYAML reads `1e-6` so.
"""

from common.params.cs import CsParams
from common.params.inputs import INPUTS, DataProcessor, EvalInputParams, TrainInputParams
from common.params.keys import (
    SECTIONS,
    compiled_keys,
    every_key,
    flag_keys,
    may_change,
    no_effect,
)
from common.params.model import COMPUTED_KEYS, FROM_CHECKPOINT, SHAPES, Initializer, ModelParams
from common.params.optimizer import (
    AnySchedule,
    ConstantSchedule,
    LinearSchedule,
    OptimizerParams,
    PolynomialSchedule,
    Schedule,
)
from common.params.params import Params, derive_inputs, differences, plain_differences
from common.params.rules import fault_list, rule_faults
from common.params.run import RunParams
from common.params.values import Properties, Section, found, keys_of

__all__ = [
    "COMPUTED_KEYS",
    "FROM_CHECKPOINT",
    "INPUTS",
    "SECTIONS",
    "SHAPES",
    "AnySchedule",
    "ConstantSchedule",
    "CsParams",
    "DataProcessor",
    "EvalInputParams",
    "Initializer",
    "LinearSchedule",
    "ModelParams",
    "OptimizerParams",
    "Params",
    "PolynomialSchedule",
    "Properties",
    "RunParams",
    "Schedule",
    "Section",
    "TrainInputParams",
    "compiled_keys",
    "derive_inputs",
    "differences",
    "every_key",
    "fault_list",
    "flag_keys",
    "found",
    "keys_of",
    "may_change",
    "no_effect",
    "plain_differences",
    "rule_faults",
]
