# SPDX-License-Identifier: Apache-2.0
"""Export as source: one readable file with the network, which needs nothing of this project.

What `keras_source.py` and `pytorch_source.py` share. The file is made of `templates/`, in which
`specialize.py` decides what this network has: so the code of a BERT has nothing of other families.
"""

import json
import textwrap
from pathlib import Path

from common.checkpoints.names import axes_of, no_place_for
from common.checkpoints.small_files import write_json
from common.checkpoints.tokenizer_json import NAME, ROLES, LibraryVocab
from common.checkpoints.vocab import pad_token
from common.export.specialize import LINE_LENGTH, specialize
from common.files import sha256
from common.params.vocabulary import SPECIAL_TOKENS, WORDPIECE
from common.params.words import DEFAULT_STRIDE

TEMPLATES = Path(__file__).with_name("templates")
SOURCE_FILE, WEIGHTS_FILE, LABELS_FILE = "model.py", "model.safetensors", "labels.json"
# What the heads of tasks read that do not read a vector for each row: those of its tokens.
READS = {
    "token_classification": "words",
    "question_answering": "spans",
    "pretraining": "masks",
}
# What a task of a vector for each row prints, by its probabilities.
PRINTS = {"softmax": "classes", "sigmoid": "label_sets", None: "values"}
CLS, SEP = "[CLS]", "[SEP]"


def write_source(classifier, folder, network, library, save_file, tensor_of):
    """Writes model.py, model.safetensors, tokenizer.json and labels.json. Returns notes.

    Args:
        classifier: Classifier. folder: Path.
        network: str, the file of `templates/` with the network.
        library: str, what it needs, for its docstring.
        save_file: of safetensors. tensor_of: (neutral name, <float32> array) -> (name, tensor).
    """
    if unknown := [name for name in classifier.weights if not axes_of(name)]:
        raise no_place_for(unknown)
    tensors = dict(tensor_of(*item) for item in classifier.weights.items())
    save_file(tensors, folder / WEIGHTS_FILE)
    write_tokenizer(classifier, folder)
    if has_labels(classifier):
        names = list(classifier.label_names)
        thresholds = getattr(classifier.model, "thresholds", None)
        labels = names if thresholds is None else dict(zip(names, thresholds, strict=True))
        write_json(folder / LABELS_FILE, labels)
    files = ("geometry.py", network, "program.py")
    sources = [(TEMPLATES / file).read_text("utf-8") for file in files]
    head = docstring(classifier, library, sha256(folder / WEIGHTS_FILE))
    text = specialize(sources, geometry_of(classifier), head)
    (folder / SOURCE_FILE).write_text(text, "utf-8", newline="\n")
    return []


def geometry_of(classifier):
    """Returns {field of Geometry: value}; see `templates/geometry.py`."""
    cfg, data, model = classifier.params.model, classifier.params.predict_input, classifier.model
    family, reads = cfg.family, READS.get(classifier.params.task, "rows")
    has_nsp = reads == "masks" and not cfg.disable_nsp
    has_normalized_head = family.has_normalized_head and reads != "masks"
    positions = cfg.position_embedding_type if cfg.use_position_embedding else "none"
    num_special = 2 if data.add_special_tokens else 0
    room = data.max_sequence_length - num_special
    stride = data.window_stride or (DEFAULT_STRIDE if reads == "spans" else -(-room // 2))
    pad = pad_token(classifier.vocab)
    masks = (name for name in ROLES["mask_token"] if name in classifier.vocab)
    of_family = (
        *("shares_layers", "is_gated", "first_position", "use_norm_bias", "head_dropout_first"),
        "projects_sum",
    )
    same = (
        *("vocab_size", "hidden_size", "is_factorized", "num_hidden_layers", "num_heads"),
        *("filter_size", "encoder_nonlinearity", "attention_type", "max_position_embeddings"),
        *("use_pre_normalization", "use_ffn_bias", "use_projection_bias_in_attention"),
        *("use_ffn_bias_in_attention", "layer_norm_epsilon", "dropout_rate"),
        *("attention_dropout_rate", "pooler_type", "share_embedding_weights", "mlm_activation"),
        *("use_ffn_bias_in_mlm", "use_output_bias_in_mlm", "span_softmax", "word_aggregation"),
        "max_answer_length",
    )
    rotary = ("global_attention_every", "local_attention", "global_rope_theta", "local_rope_theta")
    return {
        **{name: getattr(family, name) for name in of_family},
        **{name: getattr(cfg, name) for name in (*same, *rotary)},
        "embedding_size": cfg.word_size,
        "position_type": "rotary" if family.is_rotary else positions,
        "num_segments": family.num_segments if cfg.use_segment_embedding else 0,
        "normalizes_embeddings": family.normalizes_embeddings or not cfg.use_pre_normalization,
        "reads": reads,
        "prints": PRINTS[classifier.answer.probabilities] if reads == "rows" else reads,
        "has_pooler": reads == "rows" or has_nsp or has_normalized_head,
        "use_pooler_bias": cfg.use_nsp_bias if reads == "masks" else not has_normalized_head,
        "head_activation": cfg.nsp_activation if reads == "masks" else family.head_activation,
        "has_normalized_head": has_normalized_head,
        "head_dropout_first": family.head_dropout_first and reads == "rows",
        "head_dropout_rate": model.head_dropout_rate,
        "num_outputs": getattr(model, "num_outputs", 0),
        "has_next_sentence": has_nsp,
        "has_mlm_projection": cfg.is_factorized and not family.projects_sum,
        "max_sequence_length": data.max_sequence_length,
        "window_overlap": max(room - stride, 0),
        "window_stride": stride,
        "max_query_length": data.longest_question,
        "may_be_unanswerable": data.version_2_with_negative,
        "null_score_diff_threshold": getattr(model, "threshold", 0.0),
        "texts_per_row": len(classifier.text_names),
        "adds_special_tokens": data.add_special_tokens,
        "pad_id": classifier.vocab.index(pad) if data.pad_id is None else data.pad_id,
        "pad_token": pad,
        "mask_token": next(masks, ""),
    }


def has_labels(classifier):
    """Whether the outputs of a row or a token have names."""
    return classifier.answer.probabilities is not None


def docstring(classifier, library, digest):
    """Returns what model.py says of itself. digest: SHA-256 of the weights."""
    cfg, answer = classifier.params.model, classifier.answer
    labels = f", the labels in {LABELS_FILE}" * has_labels(classifier)
    step = "" if classifier.step is None else f" to step {classifier.step:,}"
    data = f" on {classifier.data}" if classifier.data else ""
    paragraphs = [
        f"{cfg.family.title} {answer.kind}, {cfg.num_hidden_layers} layers of {cfg.hidden_size}: "
        f"the network of {cfg.family.paper}.",
        f"    {command(classifier)}",
        f"prints what it says of a text. It needs {library}, safetensors and tokenizers.",
        f"{answer.made} with bert-classifier{step}{data}. The weights are in {WEIGHTS_FILE} "
        f"(SHA-256 {digest}){labels}, the vocabulary in {NAME}; README.md says how they were made.",
    ]
    safe = (text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for text in paragraphs)
    filled = (textwrap.fill(text, LINE_LENGTH, break_on_hyphens=False) for text in safe)
    return "\n\n".join(filled) + "\n"


def command(classifier):
    """Returns the command line that prints what the network says of the example."""
    return f"python {SOURCE_FILE} {' '.join(example_of(classifier))}"


def example_of(classifier):
    """Returns the texts of the card's example as strings of Python and of a shell."""
    mask = geometry_of(classifier)["mask_token"]
    texts = (text.replace("[MASK]", mask) for text in classifier.example)
    return [json.dumps(text, ensure_ascii=False) for text in texts]


# ---- The tokenizer -------------------------------------------------------------------------------


def write_tokenizer(classifier, folder):
    """Writes a tokenizer.json, which makes the rows of this network of texts.

    With special tokens, or without where `add_special_tokens` is false.
    """
    data, vocab = classifier.params.predict_input, classifier.vocab
    if isinstance(vocab, LibraryVocab):
        content = dict(vocab.content)
        if classifier.params.task == "token_classification":
            content["pre_tokenizer"] = _with_blank(content.get("pre_tokenizer"))
    else:
        content = json.loads(_wordpiece(vocab, data.do_lower).to_str())
    if not data.add_special_tokens:
        content["post_processor"] = _no_special_tokens()
    write_json(folder / NAME, content)


def _wordpiece(vocab, do_lower):
    """Returns the tokenizers.Tokenizer of a BERT's vocabulary, list of str."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {entry: number for number, entry in enumerate(vocab)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=do_lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, ids[CLS]), (SEP, ids[SEP])],
    )
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS[WORDPIECE] if token in ids])
    return tokenizer


def _no_special_tokens():
    texts = [{"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB")]
    parts = {"single": texts[:1], "pair": texts, "special_tokens": {}}
    return {"type": "TemplateProcessing", **parts}


def _with_blank(pre_tokenizer):
    """Returns a pre-tokenizer with a blank before the first word, as words of a training have."""
    if not isinstance(pre_tokenizer, dict):
        return pre_tokenizer
    found = dict(pre_tokenizer)
    if found.get("type") == "ByteLevel":
        found["add_prefix_space"] = True
    if isinstance(found.get("pretokenizers"), list):
        found["pretokenizers"] = [_with_blank(each) for each in found["pretokenizers"]]
    return found


# ---- The card ------------------------------------------------------------------------------------


def usage_of_source(classifier, library, packages, training):
    """Returns how to use the files, in Markdown.

    library: str, for people; packages: str, for pip; training: lines of Python that take a step.
    """
    row = ", ".join(example_of(classifier))
    row = row if len(classifier.example) == 1 else f"({row})"
    return f"""
`{SOURCE_FILE}` is the network in {library}, to read, run, change and train. In this folder, with
`pip install {packages} safetensors tokenizers`:

```
{command(classifier)}
```

prints what the network says of a text. In Python:

```python
from model import encode, load, load_tokenizer

network, tokenizer = load(), load_tokenizer()
features = encode(tokenizer, [{row}])
outputs = network(features)
```

`features` has `input_ids`, `padding_mask` (1 on tokens, 0 on padding)\
{" and `segment_ids`" * (geometry_of(classifier)["num_segments"] == 2)}, `[batch, tokens]`.
{training}"""
