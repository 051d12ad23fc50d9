# SPDX-License-Identifier: Apache-2.0
"""Export for transformers: a folder for AutoModelForSequenceClassification and AutoTokenizer.

The names are those of `common/checkpoints/formats/huggingface.py`, read the other way round.
"""

import numpy as np
from safetensors.numpy import save_file

from common.checkpoints.formats.huggingface import CONFIG_KEYS, MODULES, TENSORS, WEIGHTS_FILE
from common.checkpoints.names import pattern_of
from common.export.export import (
    refuse_other_networks,
    with_what_bert_has,
    write_json,
    write_vocab,
)

MODULE_NAMES = {ours: theirs for theirs, ours in MODULES.items()}
TENSOR_NAMES = {ours: theirs for theirs, ours in TENSORS.items()}
KINDS = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
# transformers' "gelu" is the erf form.
HIDDEN_ACT = {
    "gelu_erf": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
    "linear": "linear",
}


def check(params, quantize):
    del quantize
    refuse_other_networks(params.model, "Hugging Face's BERT")


def write(classifier, folder):
    """Writes model.safetensors, config.json, vocab.txt and tokenizer_config.json.

    Returns notes: list of str.
    """
    weights = with_what_bert_has(classifier)
    # transformers asks for this entry.
    save_file(huggingface_tensors(weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / "config.json", config_of(classifier))
    write_vocab(classifier, folder)
    write_json(folder / "tokenizer_config.json", tokenizer_config_of(classifier))
    if classifier.params.predict_input.add_special_tokens:
        return []
    return [
        "the network was trained on rows without [CLS] and [SEP], which transformers' tokenizer "
        "adds unless it is called with add_special_tokens=False"
    ]


def huggingface_name(name):
    """Name of a tensor in transformers' BertForSequenceClassification or BertForPreTraining.

    `encoder/layer_3/attention/key/bias` -> `bert.encoder.layer.3.attention.self.key.bias`.
    """
    pattern, layer = pattern_of(name)
    theirs = TENSOR_NAMES.get(pattern)
    if theirs is None:
        module, _, kind = pattern.rpartition("/")
        theirs = f"{MODULE_NAMES[module]}.{KINDS[kind]}".replace("{i}", str(layer))
    return theirs if theirs.startswith(("classifier.", "cls.")) else f"bert.{theirs}"


def huggingface_tensors(weights):
    """{transformers' name: array} of {neutral name: array}; kernels become [out, in]."""
    return {
        huggingface_name(name): np.ascontiguousarray(
            np.asarray(weight).T if name.endswith("/kernel") else weight
        )
        for name, weight in weights.items()
    }


def config_of(classifier):
    """What config.json says. Returns dict."""
    cfg = classifier.params.model
    labels = classifier.label_names
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        **{theirs: getattr(cfg, ours) for theirs, ours in CONFIG_KEYS.items()},
        "type_vocab_size": 2,
        "hidden_act": HIDDEN_ACT[cfg.encoder_nonlinearity],
        "layer_norm_eps": cfg.layer_norm_epsilon,
        "hidden_dropout_prob": cfg.dropout_rate,
        "attention_probs_dropout_prob": cfg.attention_dropout_rate,
        "classifier_dropout": cfg.cls_dropout_rate,
        "pad_token_id": classifier.vocab.index("[PAD]"),
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
        "problem_type": "regression" if len(labels) == 1 else "single_label_classification",
    }


def tokenizer_config_of(classifier):
    """What tokenizer_config.json says. Returns dict."""
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    if "[MASK]" in classifier.vocab:
        special["mask_token"] = "[MASK]"
    data = classifier.params.predict_input
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": data.do_lower,
        "strip_accents": None,  # as do_lower_case
        "tokenize_chinese_chars": True,
        "model_max_length": data.max_sequence_length,
        **special,
    }


def usage(classifier):
    arguments = ", ".join(f'["{name}"]' for name in classifier.text_names)
    has_special_tokens = classifier.params.predict_input.add_special_tokens
    bare = "" if has_special_tokens else "add_special_tokens=False, "
    shown = """label = model(**rows).logits.argmax(dim=-1)[0].item()
print(model.config.id2label[label])"""
    if classifier.is_regression:
        shown = "print(model(**rows).logits[0, 0].item())"
    return f"""
In this folder, with `pip install transformers torch`:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSequenceClassification.from_pretrained(".")
rows = tokenizer({arguments}, {bare}truncation=True, padding=True, return_tensors="pt")
{shown}
```
"""
