# SPDX-License-Identifier: Apache-2.0
"""`runconfig`: what to do, for how long, what to keep."""

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from common.params.values import (
    BetweenZeroAndOne,
    Count,
    CourseKey,
    Epochs,
    InertKey,
    Key,
    Path,
    Seconds,
    Section,
    Seed,
    Switch,
    Whole,
    to_int,
    to_names,
)

FlagKey = partial(CourseKey, flag=True)
DevicesKey = partial(CourseKey, compiled=True)

Mode = Literal[
    *("train", "eval", "eval_all", "train_and_eval", "predict", "export", "prepare_data"),
    "data_report",
]


class RunParams(Section):
    """What to do, for how long, and what to keep. Flags of `run.py` override keys of their name."""

    # What to do
    mode: Mode | None = FlagKey(None, "What to do.")
    model_dir: Path | None = FlagKey(None, "Folder of checkpoints, events and results.")
    checkpoint_path: Path | None = FlagKey(
        None,
        "Weights to start training from, or to use in eval, predict and export: a path, or of "
        "model_dir the `best` or the `newest`. Not given: the best where best_metric chose one. "
        "Formats: see docs/checkpoints.md.",
    )
    started_from: Literal[False] | Path | None = CourseKey(
        None,
        "What the training of a saved params.yaml was started from, and is again where model_dir "
        "has no checkpoint and no checkpoint_path is given. false: nothing that is known.",
    )
    validate_only: Switch = FlagKey(False, "Check everything, train nothing.")
    compile_only: Switch = FlagKey(False, "Compile the programs of the run, train nothing.")
    compile_cache_dir: Literal[False] | Path | None = CourseKey(
        None,
        "Folder of compiled programs that runs on a CPU keep for later runs. Not given: "
        "~/.cache/bert_classifier/compiled. false: none are kept.",
    )
    device: str | None = FlagKey(
        None, "Device to run on, such as /gpu:0.", min_length=1, compiled=True, is_local=True
    )
    cs_ip: str | None = FlagKey(
        None,
        "Address of a cluster of CS systems to run on. Port 9000 if it names none.",
        min_length=1,
        is_local=True,
    )

    # For how long
    steps: Count | None = FlagKey(
        None,
        "Train this many more steps, at most to max_steps or what num_epochs or max_seconds are.",
    )
    max_steps: Count | None = FlagKey(None, "Train until this global step.")
    num_epochs: Epochs | None = FlagKey(
        None,
        "Train for this many passes over the training rows; 0.5 is half a pass. Training begins by "
        "turning it into max_steps, which the saved params.yaml has in its place.",
    )
    max_seconds: Seconds | None = FlagKey(
        None,
        "Train for as many steps as fit into this many seconds of training, measured in the first "
        "ones. Starting, compiling, evaluating and saving do not count. Training begins by turning "
        "it into max_steps, which the saved params.yaml has in its place.",
    )
    eval_steps: Annotated[int, BeforeValidator(to_int)] | None = FlagKey(
        None,
        "Number of batches to evaluate, of rows drawn at random, the same ones each time. 0 or "
        "null: the whole split.",
    )
    throttle_secs: Whole = CourseKey(
        0, "Smallest number of seconds between two evaluations in train_and_eval."
    )

    # What to keep and show
    save_checkpoints_steps: Count = CourseKey(1000, "Steps between checkpoints.")
    keep_checkpoint_max: Whole = CourseKey(5, "Number of newest checkpoints to keep. 0: all.")
    save_summary_steps: Count = CourseKey(
        100, "Steps between TensorBoard summaries.", compiled=True
    )
    log_step_count_steps: Count | None = CourseKey(
        None, "Steps between lines of the log. Not given: save_summary_steps."
    )

    tracking: (
        Annotated[tuple[Literal["mlflow", "trackio", "wandb"], ...], BeforeValidator(to_names)]
        | None
    ) = CourseKey(
        None,
        "Trackers that show a training, each fed by a process of its own; see docs/experiments.md.",
    )

    # Repeatability
    tf_random_seed: Seed | None = Key(
        None, "Seed of initial weights, dropout and the order of rows.", compiled=False
    )
    deterministic: Switch = Key(
        True, "The same seed gives the same bits, also on a GPU.", changes="speed"
    )
    allow_changed_params: Switch = FlagKey(
        False, "Resume although keys that affect training have changed."
    )

    # Evaluation while training (train_and_eval), and what follows from it
    eval_every_steps: Count | Literal["epoch"] | None = CourseKey(
        None,
        "Steps between evaluations. `epoch`: those of a pass over the training rows (of several "
        "where there are more than 20 and one has less than 10 steps), which the saved params.yaml "
        "has in its place. Not given: one after each checkpoint.",
    )
    best_metric: str | None = CourseKey(
        None,
        "Evaluation figure that selects the best checkpoint, which is kept, such as "
        "eval/accuracy_cls or eval/loss; with several splits, that of all rows or of one split. "
        "Not given: none is selected.",
        min_length=1,
    )
    best_metric_mode: Literal["max", "min"] | None = CourseKey(
        None, "Which value of it is best. Not given: min for a loss, else max."
    )
    early_stopping_patience: Count | None = CourseKey(
        None,
        "Stop after this many consecutive evaluations without a better best_metric. Not given: "
        "train to the end.",
    )
    export_best: str | None = CourseKey(
        None, "Format in which the best checkpoint is exported at the end, as of `--export_format`."
    )
    calibrate_temperature: Switch = CourseKey(
        False,
        "At the end, fit a temperature that divides the logits, so that the probabilities in "
        "predictions and exports fit the evaluation rows best.",
        task="classification",
    )

    tune_thresholds: Switch = CourseKey(
        False,
        "At the end, with `task: multi_label`, choose the probability from which on each label is "
        "predicted, so that its F1 on the evaluation rows is largest; with `task: "
        "question_answering`, null_score_diff_threshold. false: 0.5, and the value given.",
        task=("multi_label", "question_answering"),
    )

    # Numbers that are not finite
    recover_from_nan: Literal[False, True] | BetweenZeroAndOne = CourseKey(
        False,
        "If a loss or gradient is not finite, return to the last checkpoint and continue with the "
        "learning rate times this number (true: 0.5), at most three times.",
    )

    # Several cores
    num_streams: Count = Key(
        1,
        "Parts of a training batch, and batches of an evaluation, that a CPU computes in "
        "parallel, each on its share of the cores; at most the number of cores. 2 is faster on "
        "two cores and takes longer to start. On a GPU, or with several devices: 1.",
        changes="speed",
    )

    # Several devices
    enable_distributed: Switch = DevicesKey(
        False, "Share each batch between all GPUs of the machine, or num_devices of them."
    )
    num_devices: Count | None = DevicesKey(
        None,
        "Number of devices that share it. Not given: all GPUs. On a machine without GPUs: logical "
        "devices that share its cores.",
    )
    multiple_workers: Switch = DevicesKey(
        False,
        "Share each batch between the processes, on one machine or several, that the environment "
        "variable TF_CONFIG lists, each with all its GPUs; see docs/distributed.md.",
    )

    # Without effect here
    predict_steps: Count = CourseKey(
        1,
        "Rows to predict on a CS system; elsewhere the whole split is predicted.",
        no_effect="it counted the rows on a CS system alone; max_eval_samples of predict_input "
        "says how many rows are predicted",
    )
    multireplica: Switch = InertKey(
        False,
        "Copies of the network on one CS system.",
        no_effect="several devices share the work with runconfig.enable_distributed",
    )
    ir_mode: Literal["mlir-cirh", "mlir-xla"] = InertKey(
        "mlir-cirh", "Which of the vendor's compilers to use.", no_effect="the compiler is XLA"
    )
    disable_input_pipeline_ckpt: Switch = InertKey(
        False,
        "Do not save the position in the data.",
        no_effect="every checkpoint holds the position in the data, which is two numbers; a new "
        "--model_dir begins the data anew",
    )
    disable_standard_logs: Switch = InertKey(
        False,
        "Leave out the log lines that TensorFlow writes.",
        no_effect="runconfig.log_step_count_steps says how many steps lie between two lines of "
        "the log",
    )

    @field_validator("eval_steps")
    @classmethod
    def not_positive_is_the_whole_split(cls, value):
        return None if value is None or value <= 0 else value

    @property
    def is_training(self):
        return self.mode in ("train", "train_and_eval")

    @property
    def is_distributed(self):
        """Whether several devices or workers train together."""
        return self.enable_distributed or self.multiple_workers

    @property
    def calibrates(self):
        """Whether something is fitted to the evaluation rows after training."""
        return self.calibrate_temperature or self.tune_thresholds

    @property
    def origin(self):
        """What training starts from where model_dir has no checkpoint; None: fresh weights."""
        return self.checkpoint_path or self.started_from or None

    @property
    def has_end(self):
        """Whether the params say at which step training ends, or from what that follows."""
        return bool(self.max_steps or self.num_epochs or self.max_seconds)

    @property
    def recovery_factor(self):
        """The factor of `recover_from_nan` on the learning rate; None if it is off."""
        return {False: None, True: 0.5}.get(self.recover_from_nan, self.recover_from_nan)

    @property
    def log_steps(self):
        """Steps between lines of the log."""
        return self.log_step_count_steps or self.save_summary_steps
