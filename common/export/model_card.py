# SPDX-License-Identifier: Apache-2.0
"""README.md of an export: what it is, how to use it, and everything needed to make it again."""

import importlib.metadata
import platform

import yaml

PACKAGES = ("tensorflow", "tensorflow-text", "keras", "numpy", "onnx", "onnxruntime")
# Where things lay on the machine that wrote the export; the rest of the params is the same anywhere
PLACES = ("data_dir", "vocab_file", "cache_dir", "model_dir", "checkpoint_path", "device")


def versions():
    """{program: version} of what took part, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def model_card(format, classifier, files, notes, usage):
    """The text of README.md.

    Args:
        format: key of FORMATS.
        classifier: Classifier.
        files: {path: {"size", "sha256"}}.
        notes: list of str, sentences on what the format could not keep.
        usage: str, Markdown.
    Returns:
        str, Markdown.
    """
    cfg, data = classifier.params.model, classifier.params.predict_input
    step = "" if classifier.step is None else f", at training step {classifier.step:,}"
    num_parameters = sum(weight.size for weight in classifier.weights.values())
    texts = "one text" if len(classifier.text_names) == 1 else "a pair of texts"
    facts = {
        "Input": f"{texts}; rows of more than {data.max_sequence_length} tokens, [CLS] and [SEP] "
        "among them, are cut from the end of the longer text",
        "Labels": ", ".join(f"{i} {name}" for i, name in enumerate(classifier.label_names)),
        "Vocabulary": f"{len(classifier.vocab):,} WordPieces, "
        + ("lower-cased, without accents" if data.do_lower else "cased"),
        "Network": f"{cfg.num_hidden_layers} layers of {cfg.hidden_size} with {cfg.num_heads} "
        f"heads, filter size {cfg.filter_size}, {cfg.encoder_nonlinearity}, "
        f"{'pre' if cfg.use_pre_normalization else 'post'}-norm with epsilon "
        f"{cfg.layer_norm_epsilon:g}; {num_parameters:,} parameters in float32",
        "Data": f"{data.dataset or 'the one of its name'}, read by {data.data_processor}",
    }
    metrics = [(name, f"{value:.4f}") for name, value in classifier.metrics.items()]
    parts = [
        f"# {classifier.description}",
        f"Fine-tuned BERT in the format `{format}`{step}.",
        "## How to use it",
        usage.strip(),
        "## What it is",
        table(("", ""), facts.items()),
        *([f"Note: {note}." for note in notes]),
        "## How good it is",
        table(("evaluation", ""), metrics) if metrics else "It was exported without an evaluation.",
        "## How it was made",
        f"```yaml\n{params_text(classifier.params)}```",
        table(("program", "version"), versions().items()),
        "## Files",
        table(
            ("file", "bytes", "SHA-256"),
            ((name, f"{of['size']:,}", f"`{of['sha256']}`") for name, of in files.items()),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def params_text(params):
    """The effective params as YAML, without the places of the machine they were used on."""
    sections = yaml.safe_load(params.to_yaml())
    sections = {
        name: {key: value for key, value in section.items() if key not in PLACES}
        for name, section in sections.items()
    }
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


def table(head, rows):
    """A Markdown table. head, rows: tuples of str of the same length."""
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in escaped)
