# SPDX-License-Identifier: Apache-2.0
"""Writes the network of a .neural file as an export, untrained. Exit codes as of run.py."""

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from pathlib import Path

from common.console import log
from common.errors import RunError, UserError
from common.platform.quiet_imports import import_quietly
from utils import get_params, place_of, placed

BACKENDS = {"tensorflow": "keras_source", "pytorch": "pytorch_source", "onnx": "onnx"}
HERE = b"HERE = Path(__file__).parent"  # in the file of a source export
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # before the words of no language


def make_parser():
    parser = argparse.ArgumentParser(prog="python -m extras.neural", description=__doc__)
    add = parser.add_subparsers(required=True).add_parser("compile").add_argument
    add("file", metavar="X.neural")
    add("--backend", choices=BACKENDS, required=True)
    add("--export-saved-model", action="store_true", help="tensorflow: write a SavedModel")
    add("--output", metavar="F", help="a folder to write; with .py or .onnx also the file")
    add("--checkpoint_path", metavar="PATH", help="weights, in place of those that X names")
    add("--vocab_file", metavar="PATH", help="the vocabulary, where weights bring none")
    return parser


def compile_network(args):
    """Writes the network of a file for a backend. Returns lines on what was written."""
    format = "saved_model" if args.export_saved_model else BACKENDS[args.backend]
    if not args.file.endswith(".neural"):
        raise UserError(f"{args.file}: give a file whose name ends in .neural")
    if args.export_saved_model and args.backend != "tensorflow":
        raise UserError(f"--export-saved-model is for --backend tensorflow, not {args.backend}")
    output = Path(os.path.expanduser(args.output or f"{Path(args.file).stem}_{format}"))
    name = "model.onnx" if format == "onnx" else "model.py"
    is_file = output.suffix == Path(name).suffix and not args.export_saved_model
    folder = output.with_suffix("") if is_file else output
    if output.suffix in (".py", ".onnx") and not is_file:
        raise UserError(f"{output} is no name for {format}; name a folder as --output")
    is_ours = is_file and output.is_file() and output.read_bytes() == file_of(folder / name)
    if is_file and output.exists() and not is_ours:
        raise UserError(f"{output} is not a file as compile wrote it; move it, or name another")
    reader = Path(f"{folder}.py")  # of an earlier compile, for another backend
    if folder.is_dir() and reader.is_file() and reader != output:
        raise UserError(f"{reader} reads {folder}; name another --output, or delete both")
    from common.export.export import check_folder, export

    check_folder(folder)
    classifier, notes = classifier_of(args)
    _, more = export(format, classifier, folder)
    if is_file:
        output.write_bytes(file_of(folder / name))
    counts = "{:,} parameters, {:,} of them below the head".format(*counts_of(classifier.model))
    return [f"Compiled {args.file} as {format}: {output}", counts, *notes, *more]


def file_of(inner):
    """The bytes of a network's file as it stands beside its folder; None where it is not there."""
    here = HERE + b" / " + json.dumps(inner.parent.name).encode()
    return inner.read_bytes().replace(HERE, here) if inner.is_file() else None


def counts_of(model):
    """Returns the numbers of all parameters and of those below the head."""
    sizes = {name: math.prod(each.shape) for name, each in model.weights_by_name().items()}
    below = (size for name, size in sizes.items() if name.startswith(("embeddings/", "encoder/")))
    return sum(sizes.values()), sum(below)


def classifier_of(args):
    """Returns the Classifier of a file, and notes on its weights and vocabulary."""
    flags = {"checkpoint_path": args.checkpoint_path, "mode": "export", "tf_random_seed": 0}
    values = {f"runconfig.{key}": each for key, each in flags.items() if each is not None}
    values |= {"*_input.vocab_file": args.vocab_file} if args.vocab_file else {}
    params = get_params(args.file, values, on_warning=log)
    import_quietly()
    import data
    from common.backbones.initializers import backbone_is_loaded
    from common.checkpoints.load import load_weights, open_checkpoint
    from common.export.export import Classifier
    from common.training.checks import check_network_size, set_up
    from model import make_model

    path, notes, fresh = params.runconfig.checkpoint_path, [], "all weights"
    with placed(args.file, "runconfig.checkpoint_path", path):
        checkpoint = None if path is None else open_checkpoint(path)
    config = {} if checkpoint is None else checkpoint.config
    size, place = params.model.vocab_size, place_of(args.file, "model.vocab_size")
    check_network_size(params.complete(config, {}, args.file))  # before so many words are made
    with tempfile.TemporaryDirectory() as folder:
        file = params.predict_input.vocab_file or config.get("vocab_file")
        if file is None:
            if size < len(TOKENS):
                text = f"input_dim of Embedding is {size}; expected {len(TOKENS)} or more"
                raise UserError(f"{place}{text}, as the words begin with {', '.join(TOKENS)}")
            file = Path(folder) / "vocab.txt"
            words = [*TOKENS, *(f"word{n}" for n in range(size - len(TOKENS)))]
            file.write_text("\n".join([*words, ""]), "utf-8")
            notes.append("The words are word0, word1, ...; weights or --vocab_file bring others")
        params = params.with_vocab_file(file).with_case(config.get("do_lower_case"))
        features = data.get_text_features(params)
    vocab, number = features.tokenizer.vocab, params.model.num_cls_classes or 0
    if len(vocab) > size:
        raise UserError(f"{place}{file} has {len(vocab)} tokens; write input_dim={len(vocab)}")
    names = tuple(config.get("label_names", ()))
    names = names if len(names) == number else tuple(f"LABEL_{n}" for n in range(number))
    known = {"vocab_size": len(vocab), "label_names": names, "num_cls_classes": number or None}
    params = params.with_precision("float32").complete(config, known, args.file)
    set_up(params.runconfig)
    with contextlib.nullcontext() if checkpoint is None else backbone_is_loaded():
        model = make_model(params, names)
    vars(model)["vocab"] = tuple(vocab)
    if checkpoint is not None:
        fresh = ", ".join(sorted(load_weights(model, checkpoint, params_path=args.file).fresh))
    notes.append(f"Not trained: {fresh or 'nothing'}")
    data_of_card = f"{Path(args.file).name}; {notes[-1]}"
    return Classifier(model, params, vocab, features, data=data_of_card), notes


def main(argv=None):
    try:
        print("\n".join(compile_network(make_parser().parse_args(argv))))
        return 0
    except (UserError, RunError, OSError) as error:
        log(str(error))
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
