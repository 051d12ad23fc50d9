# SPDX-License-Identifier: Apache-2.0
"""README.md of an export: its description, its use, and how to reproduce it."""

import platform
from pathlib import PurePath

import yaml

from common.params import Properties, every_key
from common.platform.packages import version_of

PACKAGES = ("tensorflow", "tensorflow-text", "keras", "numpy", "onnx", "onnxruntime")
# At the head of the card, where Hugging Face's hub reads it.
HUB_METADATA = """---
library_name: transformers
pipeline_tag: {pipeline_tag}
---

"""


def versions():
    """{program: version} of the installed packages."""
    installed = {package: version_of(package) for package in PACKAGES}
    found = {package: version for package, version in installed.items() if version is not None}
    return {"python": platform.python_version(), **found}


def model_card(format, classifier, files, scores, notes, usage):
    """The text of README.md, in Markdown.

    Args:
        format: key of EXPORT_FORMATS.
        files: {path: {"size", "sha256"}}.
        scores: {file: {metric: float}} of the evaluated files; empty if none was evaluated.
        notes: list of str, sentences on what the format does not hold.
        usage: str, Markdown.
    """
    cfg, data = classifier.params.model, classifier.params.predict_input
    step = "" if classifier.step is None else f", at training step {classifier.step:,}"
    num_parameters = sum(weight.size for weight in classifier.weights.values())
    texts = "one text" if len(classifier.text_names) == 1 else "a pair of texts"
    names = "[CLS] and [SEP]" if classifier.takes_texts else "special tokens"
    special = f"{names} among them" if data.add_special_tokens else f"without {names}"
    no_windows = classifier.answer.decoder is None
    case = "lower-cased, without accents" if data.do_lower else "cased"
    vocabulary = f"{len(classifier.vocab):,} WordPieces, {case}"
    if not classifier.takes_texts:
        vocabulary = f"{len(classifier.vocab):,} entries of `{classifier.vocab_name}`"
    facts = {
        "Input": f"{texts}; rows of more than {data.max_sequence_length} tokens, {special}, are "
        + ("cut from the end of the longer text" if no_windows else "windows of their text"),
        "Output": classifier.answer.description,
        "Vocabulary": vocabulary,
        "Network": f"{cfg.num_hidden_layers} layers of {cfg.hidden_size} with {cfg.num_heads} "
        f"heads, filter size {cfg.filter_size}, {cfg.encoder_nonlinearity}, "
        f"{'pre' if cfg.use_pre_normalization else 'post'}-norm with epsilon "
        f"{cfg.layer_norm_epsilon:g}, row vector `{cfg.pooler_type}`; "
        f"{num_parameters:,} parameters in float32",
        "Data": classifier.data or f"read by {data.data_processor}",
        **dict(classifier.calibration),
    }
    metrics = {"in training": classifier.metrics} if classifier.metrics else {}
    measured = "The figures in training are of {num_examples:,} rows: {source}."
    metrics |= {f"`{file}`": figures for file, figures in scores.items()}
    trained_with = classifier.trained_with
    made = "The params of its training." if trained_with else "The params of this export alone."
    sections = trained_with or yaml.safe_load(classifier.params.to_yaml())
    parts = [
        f"# {classifier.description}",
        f"{classifier.answer.made} {cfg.family.title} in the format `{format}`{step}.",
        "## How to use it",
        usage.strip(),
        "## What it is",
        table(("", ""), facts.items()),
        *([f"Note: {note}." for note in notes]),
        "## How good it is",
        metrics_table(metrics) if metrics else "It was exported without an evaluation.",
        *([measured.format(**classifier.evaluation)] if classifier.evaluation else []),
        *([per_class_table(classifier.per_class)] if classifier.per_class else []),
        "## How it was made",
        made,
        f"```yaml\n{params_text(sections)}```",
        table(("program", "version"), versions().items()),
        "## Files",
        table(
            ("file", "bytes", "SHA-256"),
            ((name, f"{of['size']:,}", f"`{of['sha256']}`") for name, of in files.items()),
        ),
    ]
    head = HUB_METADATA.format(pipeline_tag=classifier.answer.pipeline_tag)
    head = head if format == "huggingface" else ""
    return head + "\n\n".join(parts) + "\n"


def params_text(sections):
    """Params as YAML, without paths of the machine and its cluster, keys that have no effect here,
    and those that are not given (null).

    sections: {section: {key: value}}.
    """
    kept = {}
    for name, section in sections.items():
        public = kept[name] = {}
        for key, value in section.items():
            known = every_key().get(f"{name}.{key}", Properties())
            if known.no_effect or value is None:
                continue
            if known.names_data and value:
                is_list = isinstance(value, list | tuple)
                names = [PurePath(path).name for path in (value if is_list else [value])]
                public[key] = names if is_list else names[0]
            elif known.names_data or not known.is_local:
                public[key] = value
    kept = {name: public for name, public in kept.items() if public}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def metrics_table(metrics):
    """A row for each metric, a column for each evaluation. metrics: {column: {metric: float}}."""
    names = dict.fromkeys(name for figures in metrics.values() for name in figures)
    rows = [
        (name, *(f"{of[name]:.4f}" if name in of else "" for of in metrics.values()))
        for name in names
    ]
    return table(("evaluation", *metrics), rows)


def per_class_table(per_class):
    """A row for each class. per_class: list of {"label", metrics, "support"}."""
    names = [name for name in per_class[0] if name not in ("label", "support")]
    rows = [
        (of["label"], *(f"{of[name]:.4f}" for name in names), f"{of['support']:,}")
        for of in per_class
    ]
    return table(("class", *names, "rows"), rows)


def table(head, rows):
    """A Markdown table. head, rows: tuples of str of the same length."""
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in escaped)
