# SPDX-License-Identifier: Apache-2.0
"""`runconfig`: what to do, for how long, what to keep."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from common.params.values import Count, Path, Section, Seed, Whole, to_float, to_int

Mode = Literal["train", "eval", "eval_all", "train_and_eval", "predict", "export"]
ExportFormat = Literal["saved_model", "huggingface", "keras", "onnx", "tf1"]


class RunParams(Section):
    """What to do, for how long, and what to keep. Flags of `run.py` of the same name override."""

    # What to do
    mode: Mode | None = Field(None, description="What to do. Normally given as --mode.")
    model_dir: Path | None = Field(
        None, description="Folder of checkpoints, events and results. Normally --model_dir."
    )
    checkpoint_path: Path | None = Field(
        None, description="Weights to begin training from, or to score in eval and predict."
    )
    validate_only: bool = Field(
        False, strict=True, description="Check everything, train nothing. Normally --validate_only."
    )
    compile_only: bool = Field(
        False,
        strict=True,
        description="Compile the run's programs ahead, train nothing. Normally --compile_only.",
    )
    compile_cache_dir: Literal[False] | Path | None = Field(
        None,
        description="Folder of the compiled programs that runs keep for later ones, on a CPU. "
        "Not given: ~/.cache/bert_classifier/compiled. false: none are kept.",
    )
    device: str | None = Field(None, min_length=1, description="Device to run on, as /gpu:0.")
    cs_ip: str | None = Field(
        None,
        min_length=1,
        description="Address of a cluster of CS systems: run there. Port 9000 if it names none.",
    )

    # For how long
    steps: Count | None = Field(None, description="Train this many more steps.")
    max_steps: Count | None = Field(None, description="Train until this global step.")
    eval_steps: Annotated[int, BeforeValidator(to_int)] | None = Field(
        None, description="Batches to evaluate. 0 or null: the whole split."
    )
    throttle_secs: Whole = Field(
        0, description="Seconds from one evaluation to the next in train_and_eval, at least."
    )

    # What to keep and show
    save_checkpoints_steps: Count = Field(1000, description="Steps between checkpoints.")
    keep_checkpoint_max: Whole = Field(5, description="Newest checkpoints to keep. 0: all.")
    save_summary_steps: Count = Field(100, description="Steps between TensorBoard summaries.")
    log_step_count_steps: Count | None = Field(
        None, description="Steps between lines of the log. Not given: save_summary_steps."
    )

    # Repeatability
    tf_random_seed: Seed | None = Field(
        None, description="Seed of fresh weights, dropout and the order of rows."
    )
    deterministic: bool = Field(
        True, strict=True, description="The same bits again from the same seed, also on a GPU."
    )
    allow_changed_params: bool = Field(
        False,
        strict=True,
        description="Resume although keys have changed that change what is trained. "
        "Normally --allow_changed_params.",
    )

    # Evaluation while training (train_and_eval), and what follows from it
    eval_every_steps: Count | None = Field(
        None, description="Steps between evaluations. Not given: one after each checkpoint."
    )
    best_metric: str | None = Field(
        None,
        min_length=1,
        description="Figure of the evaluation whose best checkpoint is kept, as eval/accuracy_cls "
        "or eval/loss; of several splits, that of all rows, or one's own. Not given: none is.",
    )
    best_metric_mode: Literal["max", "min"] | None = Field(
        None, description="Which of its values is best. Not given: min for a loss, else max."
    )
    early_stopping_patience: Count | None = Field(
        None,
        description="Stop after so many evaluations in a row without a better best_metric. "
        "Not given: train to the end.",
    )
    export_best: ExportFormat | None = Field(
        None, description="Format in which the best checkpoint is exported at the end."
    )
    calibrate_temperature: bool = Field(
        False,
        strict=True,
        description="At the end, fit the temperature that divides the logits, so that "
        "probabilities of predictions and exports fit the evaluation rows best.",
    )

    # Numbers that are not finite
    recover_from_nan: (
        Literal[False, True] | Annotated[float, Field(gt=0, lt=1), BeforeValidator(to_float)]
    ) = Field(
        False,
        description="At a loss or gradient that is not finite, go back to the last checkpoint and "
        "go on with the learning rate times this number (true: 0.5), at most three times.",
    )

    # Several cores
    num_streams: Count = Field(
        1,
        description="Parts of a training batch, and batches of an evaluation, that a CPU computes "
        "side by side, each on its share of the cores; no more than there are cores. 2 is faster "
        "on two cores and takes longer to start. On a GPU, or with several devices: 1.",
    )

    # Several devices
    enable_distributed: bool = Field(
        False,
        strict=True,
        description="Share each batch between all GPUs of the machine, or num_devices of them.",
    )
    num_devices: Count | None = Field(
        None,
        description="How many devices share it. Not given: all GPUs. On a machine without GPUs: "
        "logical devices that share its cores.",
    )
    multiple_workers: bool = Field(
        False,
        strict=True,
        description="Share each batch between the processes, on one machine or several, that the "
        "environment variable TF_CONFIG lists, each with all its GPUs; see docs/distributed.md.",
    )

    # Without effect here (NO_EFFECT)
    predict_steps: Count = Field(
        1, description="Rows to predict on a CS system; elsewhere the whole split is predicted."
    )
    multireplica: bool = Field(
        False, strict=True, description="Copies of the network on one CS system."
    )
    ir_mode: Literal["mlir-cirh", "mlir-xla"] = Field(
        "mlir-cirh", description="Which of the vendor's compilers is used."
    )
    disable_input_pipeline_ckpt: bool = Field(
        False, strict=True, description="Leave the position in the data out of checkpoints."
    )
    disable_standard_logs: bool = Field(
        False, strict=True, description="Leave out the lines of the log that TensorFlow writes."
    )

    @field_validator("eval_steps")
    @classmethod
    def not_positive_is_the_whole_split(cls, value):
        return None if value is None or value <= 0 else value

    @property
    def recovery_factor(self):
        """What `recover_from_nan` multiplies the rate with, or None where it is off."""
        return {False: None, True: 0.5}.get(self.recover_from_nan, self.recover_from_nan)

    @property
    def log_steps(self):
        """Steps between lines of the log."""
        return self.log_step_count_steps or self.save_summary_steps
