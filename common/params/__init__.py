# SPDX-License-Identifier: Apache-2.0
"""Every key of a YAML file: type, range, default, meaning and properties.

`utils.get_params` reads a file into `Params`; the rest of the project uses checked, frozen values:
`params.model.hidden_size`, `params.runconfig.max_steps`. Names and meanings are those of the
original Cerebras TensorFlow BERT classifier (Model Zoo 1.7.1).

The sections are the top level of a file, which is `Params` in `params.py`:

    train_input: {...}      inputs.py     rows to train on
    eval_input: {...}       inputs.py     rows to score; absent: as train_input, in order
    predict_input: {...}    inputs.py     as eval_input, with the keys given here in place
    model: {...}            model.py      the network
    optimizer: {...}        optimizer.py  one update of the weights
    distillation: {...}     distillation.py  what the training learns from a teacher; or absent
    runconfig: {...}        run.py        what to do, for how long, what to keep
    csconfig: {...}         cs.py         a CS system, and how it is reached

A file for `--mode train_vocab` is another top level, VocabularyFile:

    vocabulary: {...}       vocabulary.py the texts and the entries of a vocabulary
    runconfig: {...}        run.py        where it is written

A field of a section is made by `Key` (`values.py`), which states the key's properties: whether it
may change when a run is resumed, whether it has a flag, and so on. `keys.py` derives from them what
the program asks. `rules.py` holds the rules between keys, `yaml_file.py` reads a file with line
numbers, `yaml_faults.py` puts faults into words, and `docs.py` writes docs/configuration.md.

An empty value (`null`) means "not given". A number may be given as text, as PyYAML reads `1e-6`.
"""

from common.params.cs import CsParams
from common.params.inputs import (
    FILE_KEYS,
    INPUTS,
    OF_FILES,
    TEXT_FILES,
    TFDS_KEYS,
    DataProcessor,
    EvalInputParams,
    TrainInputParams,
)
from common.params.keys import (
    SECTIONS,
    compiled_keys,
    contains,
    every_key,
    field_of,
    flag_keys,
    has_effect,
    may_change,
    no_effect,
)
from common.params.model import COMPUTED_KEYS, FROM_CHECKPOINT, SHAPES, Initializer, ModelParams
from common.params.optimizer import (
    WITHOUT_SECTION,
    AnySchedule,
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    OptimizerParams,
    PolynomialSchedule,
    Schedule,
)
from common.params.params import Params, derive_inputs, differences, plain_differences
from common.params.rules import fault_list, rule_faults
from common.params.run import RunParams
from common.params.values import Properties, Section, as_yaml, keys_of
from common.params.vocabulary import VocabularyFile
