# SPDX-License-Identifier: Apache-2.0
"""extras/beam: what a pipeline prepares is what this machine prepares, byte for byte."""

import hashlib
import importlib

import numpy as np
import pytest
import yaml

from input.prepare_data import prepare_data
from input.sources import documents
from utils import get_params

pytestmark = pytest.mark.beam

WORDS = ("the", "cat", "sat", "on", "mat", "a", "dog", "ran", "far", "and", "away", "so")
VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", "##s")


@pytest.fixture
def beam():
    """The module, where there is Apache Beam. Where another package is missing the tests fail."""
    pytest.importorskip("apache_beam")
    return importlib.import_module("extras.beam.prepare_data")


@pytest.fixture
def params_path(tmp_path, monkeypatch):
    """A params file of 69 documents, of which 9 stand there twice, in several shards."""
    generator = np.random.default_rng(0)
    texts = [
        "\n".join(" ".join(generator.choice(WORDS, 7)) + "." for _ in range(5)) for _ in range(60)
    ]
    (tmp_path / "corpus.txt").write_text("\n\n".join([*texts, *texts[:9]]))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))
    keys = {
        "data_processor": "DocumentDataProcessor",
        "train_documents": str(tmp_path / "corpus.txt"),
        "eval_fraction": 0.2,
        "vocab_file": str(tmp_path / "vocab.txt"),
        "prepared_dir": str(tmp_path / "beam"),
        "max_sequence_length": 23,
        "duplicate_line_length": 10,
        "batch_size": 4,
    }
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"train_input": keys}))
    monkeypatch.setattr(
        documents.TextCorpus.__init__, "__defaults__", ("text", "blank_line", False, 1500)
    )
    return path


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.parametrize("duplicates", ["report", "remove"])
@pytest.mark.parametrize("workers", [1, 2])
def test_beam_makes_the_bytes_of_this_machine(beam, params_path, tmp_path, duplicates, workers):
    overrides = {"*_input.duplicates": duplicates}
    params = get_params(params_path, overrides | {"*_input.prepared_dir": str(tmp_path / "local")})
    prepare_data(params, beam.read)
    flags = ["--runner", "DirectRunner", "--direct_num_workers", str(workers)]
    override = ["--override", f"*_input.duplicates={duplicates}"]
    assert beam.main(["--params", str(params_path), *override, *flags]) == 0
    made = contents(tmp_path / "beam")
    assert made == contents(tmp_path / "local")
    assert sum("shard" in name for name in made) > 6


def test_a_bad_line_is_a_sentence(beam, params_path, tmp_path, capsys):
    with open(tmp_path / "corpus.txt", "ab") as file:
        file.write(b"\n\xff\n")
    assert beam.main(["--params", str(params_path), "--runner", "DirectRunner"]) == 2
    assert "corpus.txt, line 414 is not UTF-8" in capsys.readouterr().err
