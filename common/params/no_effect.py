# SPDX-License-Identifier: Apache-2.0
"""Keys of the original that change nothing here, each with what does their work instead."""

# Of `model`: what a classifier has no place for, also in the file of its pre-training.
PRETRAINING_KEYS = (
    "share_embedding_weights",
    "mlm_loss_weight",
    "mlm_loss_scaling",
    "mlm_nonlinearity",
    "use_ffn_bias_in_mlm",
    "use_output_bias_in_mlm",
    "nsp_nonlinearity",
    "use_nsp_bias",
)
VSL_KEYS = ("use_vsl", "input_pad_id", "segment_pad_id", "mlm_pad_id")

# `utils.get_params` warns of those that a file gives another value than their default.
# `*_input` stands for each of the three inputs.
NO_EFFECT = {
    **{
        f"model.{key}": "a classifier has no heads of pre-training; leave the key out"
        for key in PRETRAINING_KEYS
    },
    **{
        f"model.{key}": "train_input.packing: packed or buckets leaves out the padding"
        for key in VSL_KEYS
    },
    "model.boundary_casting": "it imitated the CS-1's 16-bit activations; model.mixed_precision "
    "computes in 16 bits",
    "model.tf_summary": "optimizer.log_grads and optimizer.log_hists show the gradients",
    "model.enable_gpu_optimizations": "it is about masked words; a classifier has none",
    "model.include_padding_in_loss": "a classifier's loss is one number a row, not one a token",
    "model.multireplica": "several devices share the work with runconfig.enable_distributed",
    "*_input.shuffle_buffer": "every epoch is a new order of all rows, without a buffer",
    "*_input.cache": "the tokens are always kept in memory, and on disk in cache_dir",
    "*_input.drop_remainder": "every update has batch_size rows, and every row is scored, those "
    "of the last short batch too",
    "eval_input.shuffle": "evaluation reads the rows in order; shuffle of train_input is what "
    "training draws",
    "predict_input.shuffle": "prediction reads the rows in order",
    "eval_input.repeat": "evaluation reads every row once; runconfig.eval_steps limits it",
    "predict_input.repeat": "prediction reads every row once",
    "*_input.disable_eval_metrics": "the metrics cost milliseconds, and are always reported; "
    "--mode train evaluates nothing",
    "*_input.mixed_precision": "model.mixed_precision says it",
    "*_input.scale_mlm_weights": "a classifier predicts no masked words",
    "runconfig.multireplica": "several devices share the work with runconfig.enable_distributed",
    "runconfig.ir_mode": "the compiler is XLA",
    "runconfig.disable_input_pipeline_ckpt": "every checkpoint holds the position in the data, "
    "which is two numbers; a new --model_dir begins the data anew",
    "runconfig.disable_standard_logs": "runconfig.log_step_count_steps says how many steps lie "
    "between two lines of the log",
    "runconfig.predict_steps": "it counted the rows on a CS system alone; max_eval_samples of "
    "predict_input says how many rows are predicted",
}
