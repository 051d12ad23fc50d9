# SPDX-License-Identifier: Apache-2.0
"""The params of a training that is begun from flags alone, without a params file.

Its data are files. docs/modes.md lists what is chosen here; `model_dir/params.yaml` then has it.
"""

from common.params import pretraining, words
from common.params.documents import DOCUMENTS
from common.params.inputs import PROCESSORS_OF_TASK, TEXT_FILES

EVAL_FRACTION = 0.1
NUM_EPOCHS = 3
BEST_METRICS = {
    "classification": "eval/accuracy_cls",
    "multi_label": "eval/macro_f1",
    "regression": "eval/pearson",
    words.ANSWERING: "eval/f1",
}
# {task: what its rows are, where others are tables of texts}
ROWS_OF_TASK = {
    words.TAGGING: {"data_processor": words.TAGGED_FILES},
    # As run_qa.py of Hugging Face.
    words.ANSWERING: {"data_processor": words.QUESTION_FILES, "max_sequence_length": 384},
    # Masked words alone.
    pretraining.TASK: {"data_processor": DOCUMENTS, "sentence_pairs": "none"},
}


def everyday_values(task=None):
    """The values that flags replace: plain values, as of a file. task: str, where it is given."""
    head = {"disable_nsp": True} if str(task) == pretraining.TASK else {"cls_dropout_rate": 0.1}
    return {
        "train_input": {
            "data_processor": TEXT_FILES,
            # As run_glue.py of Hugging Face; what is cut is told before training.
            "max_sequence_length": 128,
            "batch_size": 32,
            "packing": "auto",
            **ROWS_OF_TASK.get(str(task), {}),
        },
        "model": {
            "mixed_precision": "auto",
            # Those of BERT (Devlin et al. 2019, A.2); the keys' defaults are the original's.
            "attention_dropout_rate": 0.1,
            **head,
        },
        # The best checkpoint is kept besides.
        "runconfig": {
            "save_summary_steps": 10,
            "keep_checkpoint_max": 2,
            "eval_every_steps": "epoch",
        },
    }


def fill_in(values, find_columns):
    """Adds to values what depends on those of the command line.

    find_columns: (path, text_columns, label_column, delimiter) -> (text columns, label column).
    Returns what was chosen and is told: list of str.
    """
    train, run = values["train_input"], values["runconfig"]
    if not isinstance(train, dict) or not isinstance(run, dict):
        return []  # which is refused
    inputs = [train, *(each for each in [values.get("eval_input")] if isinstance(each, dict))]
    chosen, told, file = {}, [], train.get("train_file")
    columns = train.get("text_columns"), train.get("label_column")
    if None in columns and train["data_processor"] == TEXT_FILES and isinstance(file, str):
        found = find_columns(file, *columns, train.get("delimiter"))
        chosen |= zip(("text_columns", "label_column"), found, strict=True)
    evaluation = {key: value for section in inputs for key, value in section.items()}
    held_out = ("eval_file", "eval_documents", "eval_fraction")
    if all(evaluation.get(key) is None for key in held_out):
        file = file or train.get("train_documents")
        chosen["eval_fraction"] = EVAL_FRACTION
        told.append(
            f"no --eval_file is given: {EVAL_FRACTION:.0%} of the rows of {file}, drawn at random, "
            "are kept from training and evaluated (eval_fraction)"
        )
    for section in inputs:
        section.update({key: value for key, value in chosen.items() if section.get(key) is None})
    if all(run.get(key) is None for key in ("max_steps", "num_epochs", "max_seconds")):
        run["num_epochs"] = NUM_EPOCHS
    if run.get("best_metric") is None:
        implied = [t for t, names in PROCESSORS_OF_TASK.items() if train["data_processor"] in names]
        task = train.get("task") or [*implied, "classification"][0]
        run["best_metric"] = BEST_METRICS.get(str(task))
    return told
