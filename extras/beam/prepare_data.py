# SPDX-License-Identifier: Apache-2.0
"""`--mode prepare_data` with Apache Beam: the same shards, made by as many machines as there are.

    make beam-setup
    .venv-beam/bin/python -m extras.beam.prepare_data --params X.yaml --runner DirectRunner \
        --direct_num_workers 2 --direct_running_mode multi_processing

Flags besides --params and --override are Beam's. The workers read the documents and write the
shards themselves, so the paths of the params, with `prepared_dir`, must be those of a file system
that all of them share. Whatever runs them, the bytes are those of `run.py --mode prepare_data`.

Beam needs an older protobuf than TensorFlow Datasets, so it has an environment of its own, and
reads text files alone.
"""

import argparse
import glob
import json
import os
import sys
import tempfile

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from common.console import closing_summary, log
from common.errors import RunError, UserError
from input.features import Layout
from input.prepare_data import prepare_data
from input.tokenizers.wordpiece import WordPieceTokenizer
from utils import get_params, parse_override


class _Call(beam.DoFn):
    """Calls a function with each element. Gives [element, result, sentence of an error] as JSON."""

    def __init__(self, make_function):
        self.make_function = make_function

    def setup(self):
        self.function = self.make_function()

    def process(self, element):
        try:
            yield json.dumps([element, self.function(element), None])
        except UserError as error:  # no other attempt would end otherwise
            yield json.dumps([element, None, str(error)])


def map_with_beam(flags, folder):
    """Returns a function as `workers.map_unordered`, which runs a pipeline.

    flags: list of str, Beam's. folder: path-like, where the workers write what a function returns.
    """

    def map_shards(make_function, items, num_processes):
        del num_processes  # the runner's flags decide
        if not items:
            return
        with tempfile.TemporaryDirectory(prefix=".beam-", dir=folder) as results:
            with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
                (
                    pipeline
                    | beam.Create(list(items))
                    | beam.Reshuffle()  # so that a worker takes one after the other
                    | beam.ParDo(_Call(make_function))
                    | beam.io.WriteToText(os.path.join(results, "part"))
                )
            for path in sorted(glob.glob(os.path.join(results, "part*"))):
                with open(path, encoding="utf-8") as file:
                    for element, result, error in map(json.loads, file):
                        if error is not None:
                            raise UserError(error)
                        yield element, result

    return map_shards


def read(cfg):
    """Returns the tokenizer and the Layout of InputParams, as `data.py` does."""
    if cfg.vocab_file is None:
        raise UserError("vocab_file is not given; write the one that the training will have")
    tokenizer = WordPieceTokenizer.from_vocab_file(cfg.vocab_file, cfg.do_lower)
    return tokenizer, Layout(cfg.add_special_tokens, cfg.invert_mask, cfg.pad_id)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="extras.beam.prepare_data")
    parser.add_argument("-p", "--params", required=True, metavar="YAML", help="the params file")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    args, flags = parser.parse_known_args(argv)
    overrides = dict(map(parse_override, args.override)) | {"runconfig.mode": "prepare_data"}
    try:
        params = get_params(args.params, overrides, on_warning=log)
        folders = {cfg.prepared_dir for cfg in params.inputs.values()}
        if None in folders:
            raise UserError(
                "prepared_dir is not given; write a folder that all workers of the pipeline share"
            )
        folder = params.predict_input.prepared_dir
        os.makedirs(folder, exist_ok=True)
        result = prepare_data(params, read, map_with_beam(flags, folder))
    except (UserError, RunError, OSError) as error:
        log(str(error))
        return 2 if isinstance(error, UserError) else 1
    print(closing_summary(result.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
