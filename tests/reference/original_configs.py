# SPDX-License-Identifier: Apache-2.0
"""The original's fine-tuning files in its own form, written from what is known of them.

Their values are those of Model Zoo R_1.7.1: short files whose network stands in the file of the
pre-training that `pretrain_params_path` names, from the folder of the classifier.
"""

# name: (data processor, length, steps, warm-up and steps between checkpoints, peak of the rate,
# classes, file of the pre-training)
FINE_TUNING = {
    "base_sst2": ("Sst2DataProcessor", 72, 20000, 2000, "5e-5", 2, "base_msl128"),
    "base_mnli": ("MnliDataProcessor", 448, 100000, 10000, "5e-5", 3, "base_msl512"),
    "large_sst2": ("Sst2DataProcessor", 72, 20000, 2000, "5e-6", 2, "large_msl128"),
    "large_mnli": ("MnliDataProcessor", 448, 100000, 10000, "5e-6", 3, "large_msl512"),
}

# name: (hidden size, layers, heads, filter size)
NETWORKS = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}


def fine_tuning_config(name, data_dir="./tfds", vocab_file="./vocab.txt"):
    """Text of params_bert_<name>.yaml of the classifier."""
    processor, length, steps, warm_up, peak, classes, pretraining = FINE_TUNING[name]
    return f"""\
train_input:
    data_processor: "{processor}"
    data_dir: "{data_dir}"
    vocab_file: "{vocab_file}"
    max_sequence_length: {length}
    do_lower: True
    shuffle: True
    repeat: True
    add_special_tokens: True
    batch_size: 12

eval_input:
    data_processor: "{processor}"
    data_dir: "{data_dir}"
    vocab_file: "{vocab_file}"
    max_sequence_length: {length}
    do_lower: True
    shuffle: False
    repeat: False
    add_special_tokens: True
    batch_size: 12

predict_input:
    batch_size: 1

model:
    pretrain_params_path: "configs/params_bert_{pretraining}.yaml"
    num_cls_classes: {classes}
    cls_dropout_rate: 0.1
    mixed_precision: True
    boundary_casting: False
    tf_summary: False

optimizer:
    optimizer_type: "adamw"
    weight_decay_rate: 0.01
    exclude_from_weight_decay: ["LayerNorm", "layer_norm", "bias", "Bias"]
    epsilon: 1e-6
    max_gradient_norm: 1.0
    learning_rate:
        - scheduler: "Linear"
          initial_learning_rate: 0.0
          end_learning_rate: {peak}
          steps: {warm_up}
        - scheduler: "Constant"
          learning_rate: {peak}
    loss_scaling_factor: "dynamic"

initializer:
    name: "truncated_normal"
    mean: 0.0
    stddev: 0.02

runconfig:
    max_steps: {steps}
    eval_steps: 0
    save_checkpoints_steps: {warm_up}
    save_summary_steps: 100
    keep_checkpoint_max: 2
    throttle_secs: 0
    tf_random_seed: 1
    enable_distributed: False
    multiple_workers: False
    ir_mode: "mlir-cirh"
"""


def pretraining_config(name):
    """Text of params_bert_<name>.yaml of the pre-training; a classifier reads its `model`."""
    size, length = name.split("_msl")
    hidden_size, layers, heads, filter_size = NETWORKS[size]
    return f"""\
train_input:
    data_processor: "BertTfRecordsProcessor"
    data_dir: "./pubmed_tfrecords"
    max_sequence_length: {length}
    max_predictions_per_seq: 20
    buckets: [39, 56, 72, 89, 108]
    batch_size: 256
    shuffle: True

model:
    hidden_size: {hidden_size}
    vocab_size: 30522
    use_position_embedding: True
    use_segment_embedding: True
    position_embedding_type: "learned"
    max_position_embeddings: 512
    share_embedding_weights: True
    num_hidden_layers: {layers}
    dropout_rate: 0.1
    layer_norm_epsilon: 1e-5
    num_heads: {heads}
    attention_type: "scaled_dot_product"
    attention_dropout_rate: 0.1
    filter_size: {filter_size}
    encoder_nonlinearity: "gelu"
    use_ffn_bias: True
    use_ffn_bias_in_attention: True
    use_projection_bias_in_attention: True
    disable_nsp: False
    num_cls_classes: 2
    mlm_loss_weight: 1.0
    mlm_loss_scaling: "precomputed_num_masked"
    mixed_precision: True
    boundary_casting: False
    tf_summary: False
    use_vsl: True

optimizer:
    optimizer_type: "adamw"
    disable_lr_steps_reset: True
    learning_rate:
        - scheduler: "Linear"
          initial_learning_rate: 0.0
          end_learning_rate: 0.0001
          steps: 10000
        - scheduler: "Linear"
          initial_learning_rate: 0.0001
          end_learning_rate: 0.0
          steps: 1000000

runconfig:
    max_steps: 900000
"""


def write_original(folder, name, **places):
    """Writes both files as the original's classifier has them. Returns the fine-tuning's path."""
    configs = folder / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    pretraining = FINE_TUNING[name][-1]
    (configs / f"params_bert_{pretraining}.yaml").write_text(pretraining_config(pretraining))
    path = configs / f"params_bert_{name}.yaml"
    path.write_text(fine_tuning_config(name, **places))
    return path


def write_of_words(folder, task, size):
    """Writes the original's file of a task of words beside its pre-training's. Returns its path.

    task: "squad" or "bc5cdr". size: "base" or "large".
    """
    inputs, model, rate, run, length = OF_WORDS[task]
    pretraining = f"{size}_msl{length}"
    (folder / f"params_bert_{pretraining}.yaml").write_text(pretraining_config(pretraining))
    path = folder / f"params_bert_{size}_{task}.yaml"
    path.write_text(
        f"{inputs}\nmodel:\n    pretrain_params_path: params_bert_{pretraining}.yaml\n"
        f"    mixed_precision: True\n    boundary_casting: False\n    tf_summary: False\n{model}"
        "\noptimizer:\n    epsilon: 1.e-6\n    max_gradient_norm: 1.0\n"
        f"    loss_scaling_factor: dynamic\n{rate}\nrunconfig:\n{run}"
    )
    return path


SQUAD_INPUT = """\
{name}:
    data_processor: QuestionAnsweringDataProcessor
    data_file: "./input/data/{file}.tf_record"
    vocab_file: "./vocab.txt"
    max_sequence_length: 384
    batch_size: {size}
"""
NER_INPUT = """\
{name}:
    data_processor: "NerDataProcessor"
    data_dir: "./bc5cdr-chem/{file}"
    vocab_file: "./vocab.txt"
    label_vocab_file: "./vocab.txt"
    max_sequence_length: 128
    batch_size: {size}
"""
TRAIN, EVAL, PREDICT = "train_input", "eval_input", "predict_input"
# task: (inputs, keys of model, of optimizer, of runconfig, length of the pre-training)
OF_WORDS = {
    "squad": (
        SQUAD_INPUT.format(name=TRAIN, file="train", size=32)
        + SQUAD_INPUT.format(name=PREDICT, file="predict", size=1),
        "    cls_dropout_rate: 0.1\n",
        """\
    optimizer_type: adamw
    weight_decay_rate: 0.01
    learning_rate:
        - {scheduler: Linear, steps: 1000, initial_learning_rate: 0.0, end_learning_rate: 0.00005}
        - {scheduler: Constant, learning_rate: 0.00005}
""",
        "    max_steps: 10000\n    save_checkpoints_steps: 1000\n    tf_random_seed: 1202\n",
        512,
    ),
    "bc5cdr": (
        NER_INPUT.format(name=TRAIN, file="train", size=8)
        + NER_INPUT.format(name=EVAL, file="dev", size=8)
        + NER_INPUT.format(name=PREDICT, file="test", size=1),
        "    encoder_output_dropout_rate: 0.1\n    include_padding_in_loss: False\n"
        "    loss_weight: 0.04322062437752126\n",
        """\
    optimizer_type: adam
    disable_lr_steps_reset: True
    learning_rate:
        - {scheduler: Linear, steps: 1508, initial_learning_rate: 0.0, end_learning_rate: 0.00001}
        - {scheduler: Linear, steps: 15080, initial_learning_rate: 0.00001, end_learning_rate: 0}
""",
        "    max_steps: 15080\n    eval_steps: 0\n    keep_checkpoint_max: 5\n",
        128,
    ),
}
