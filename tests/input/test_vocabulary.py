# SPDX-License-Identifier: Apache-2.0
"""`--mode train_vocab`, from a params file to a folder that trains a network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import run
from common.checkpoints.load import load_weights
from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from common.params import VocabularyFile
from common.params.vocabulary import VocabularyParams
from input.tokenizers.coverage import measure
from input.tokenizers.extend import extend
from input.tokenizers.tokenizer import Tokenizer
from input.vocabulary import check_folder
from session import open_session
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface
from utils import get_params, get_vocabulary_file

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BASE = [*SPECIAL, "[unused0]", "[unused1]", "a", "b", "c", "##a", "##b", "##c", "ab", "bc"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_text("ab abc abc cab cab cab\nbca, bca! zz zz 12ab 12ab\n" * 3)
    (tmp_path / "eval.txt").write_text("abc abc bcb q\n")
    (tmp_path / "base.txt").write_text("".join(f"{entry}\n" for entry in BASE))
    return tmp_path


def run_on(folder, capsys, flags=(), **keys):
    """Runs the mode with keys of the section. Returns the exit code and what it printed."""
    keys = {"train_files": str(folder / "train.txt"), "num_unused": 2, "vocab_size": 30} | keys
    keys = {key: value for key, value in keys.items() if value is not None}
    (folder / "vocab.yaml").write_text(yaml.safe_dump({"vocabulary": keys}))
    command = ["--mode", "train_vocab", "--params", str(folder / "vocab.yaml"), *flags]
    code = run.main([*command, "--model_dir", str(folder / "model_dir")])
    return code, capsys.readouterr()


def extension_keys(folder, **keys):
    base = str(folder / "base.txt")
    return {"num_unused": None, "vocab_size": None, "extend_vocab_file": base} | keys


def test_a_run_leaves_a_vocabulary_a_report_and_says_what_it_covers(folder, capsys):
    keys = {"eval_files": str(folder / "eval.txt"), "compare_with": [str(folder / "base.txt")]}
    code, said = run_on(folder, capsys, **keys)
    out = folder / "model_dir" / "vocab"
    names = ["report.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert code == 0 and sorted(os.listdir(out)) == names
    vocab = read_vocab(out / "vocab.txt")
    assert vocab[:7] == ["[PAD]", "[unused0]", "[unused1]", *SPECIAL[1:]]
    assert vocab == Tokenizer.from_dir(out).entries
    report = json.loads((out / "report.json").read_text())
    assert report["words"] == 3 * 14  # with , and !
    base = report["coverage"][str(folder / "base.txt")]
    # ab ##c twice, bc ##b, [UNK] for q: 7 pieces of 4 words and 10 characters.
    assert base == {
        **{"entries": 15, "words": 4, "unknown_share": 0.25, "whole_share": 0.0},
        **{"pieces_per_word": 1.75, "characters_per_piece": 10 / 7},
    }
    table = said.out.splitlines()
    assert table[0].split()[:3] == ["vocabulary", "entries", "[UNK]"]
    assert table[2].split()[1:] == ["15", "25.000%", "0.0%", "1.750", "1.43"]
    assert str(out) in said.err


def test_the_result_is_one_line_of_json_for_programs(folder, capsys):
    _, said = run_on(folder, capsys, flags=["--json"], eval_files=str(folder / "eval.txt"))
    result = json.loads(said.out)
    assert result["mode"] == "train_vocab" and result["figures"]["vocab/words"] == 4
    assert str(folder / "model_dir/vocab/vocab.txt") in result["written"]


def test_the_same_command_writes_the_same_bytes_and_another_vocabulary_stays(folder, capsys):
    run_on(folder, capsys)
    out = folder / "model_dir" / "vocab"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run_on(folder, capsys)[0] == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    code, said = run_on(folder, capsys, vocab_size=25)
    assert code == 2 and "vocab.txt is of another vocabulary" in said.err
    code, said = run_on(folder, capsys, algorithm="byte_bpe", vocab_size=300, num_unused=None)
    assert code == 2 and "vocab.txt is of another vocabulary" in said.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_with_something_else_is_refused_before_anything_is_read(folder, capsys):
    out = folder / "elsewhere"
    out.mkdir()
    (out / "thesis.doc").write_text("of years")
    code, said = run_on(folder, capsys, output_dir=str(out), train_files="absent.txt")
    assert code == 2 and "holds thesis.doc, which is no part of a vocabulary" in said.err
    assert os.listdir(out) == ["thesis.doc"]
    with pytest.raises(UserError, match="is no folder"):
        check_folder(folder / "train.txt")


# ---- New words in an existing vocabulary ---------------------------------------------------------


def extended(words, num=9, least=1, at="unused"):
    tokenizer, extension, added = extend(Tokenizer(BASE), words, num, least, at)
    return tokenizer.entries, extension.pieces, [word.word for word in added]


def test_the_words_that_save_most_pieces_come_first():
    # abc is ab ##c, 1 piece saved 9 times; cab is c ##a ##b, 2 saved 5 times; zz is unknown: 2 x 6.
    words = {"abc": 9, "cab": 5, "zz": 6, "ab": 99, "12": 99}
    entries, pieces, added = extended(words, at="end")
    assert added == ["zz", "cab", "abc"]  # 12, 10, 9; ab is an entry, 12 has no letter
    assert entries == [*BASE, "zz", "cab", "abc"]
    assert pieces == {15: [1], 16: [9, 10, 11], 17: [13, 12]}


def test_unused_entries_are_filled_and_no_more():
    entries, pieces, added = extended({"abc": 9, "cab": 5, "bca": 1})
    assert added == ["cab", "abc"]
    assert entries == [*SPECIAL, "cab", "abc", *BASE[7:]]
    assert pieces == {5: [9, 10, 11], 6: [13, 12]}
    assert extended({"abc": 9, "cab": 5}, least=6)[2] == ["abc"]
    assert extended({"abc": 9, "cab": 5}, num=1)[2] == ["cab"]


def test_a_vocabulary_that_has_all_words_or_no_room_is_refused():
    with pytest.raises(UserError, match="has every word that stands 3 times"):
        extended({"abc": 2, "ab": 9}, least=3)
    with pytest.raises(UserError, match=r"no entries \[unusedN\] .*write new_words_at: end"):
        extend(Tokenizer([*SPECIAL, "a"]), {"ab": 9}, 3, 1, "unused")


def test_a_cased_vocabulary_is_extended_with_do_lower_false_alone(folder, capsys):
    (folder / "base.txt").write_text("".join(f"{each}\n" for each in [*BASE, "A", "Ab", "B"]))
    code, said = run_on(folder, capsys, **extension_keys(folder))
    assert (
        code == 2
        and "1 of the 3 longer entries of" in said.err
        and "write do_lower: false" in said.err
    )
    assert run_on(folder, capsys, **extension_keys(folder, do_lower=False))[0] == 0


@pytest.mark.parametrize("at", ["unused", "end"])
def test_training_from_a_checkpoint_begins_with_vectors_of_the_new_words(folder, capsys, at):
    keys = extension_keys(folder, new_words_at=at, max_new_words=2)
    code, said = run_on(folder, capsys, **keys)
    assert code == 0 and "2: 12ab (was [UNK]), cab (was c ##a ##b)" in said.out
    tensors = huggingface_tensors()
    name = "embeddings.word_embeddings.weight"
    tensors[name] = tensors[name][: len(BASE)]
    save_huggingface(folder / "weights", tensors, vocab_size=len(BASE))
    (folder / "weights" / "vocab.txt").write_bytes((folder / "base.txt").read_bytes())
    (folder / "rows.tsv").write_text("text\tlabel\ncab\tx\nab\ty\n")
    section = {
        "data_processor": "TextFileDataProcessor",
        "train_file": str(folder / "rows.tsv"),
        "eval_file": str(folder / "rows.tsv"),
        "text_columns": "text",
        "label_column": "label",
        "vocab_file": str(folder / "model_dir" / "vocab" / "vocab.txt"),
        "cache_dir": str(folder / "cache"),
        "max_sequence_length": 9,
        "batch_size": 2,
    }
    runconfig = {"mode": "train", "model_dir": str(folder / "trained"), "max_steps": 1}
    runconfig |= {"checkpoint_path": str(folder / "weights")}
    values = {"train_input": section, "model": {}, "runconfig": runconfig}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    session = open_session(get_params(folder / "params.yaml"))
    first = 5 if at == "unused" else len(BASE)
    assert session.vocab[first : first + 2] == ["12ab", "cab"]
    model = session.new_model()
    report = load_weights(model, session.pretrained)
    table = model.weights_by_name()["embeddings/word_embeddings"].numpy()
    old = tensors[name].astype(np.float64)
    assert table.shape == ({"unused": 15, "end": 17}[at], 6)
    np.testing.assert_allclose(table[first], old[1], rtol=1e-6)
    np.testing.assert_allclose(table[first + 1], old[[9, 10, 11]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(table[7:15], old[7:15], rtol=1e-6)
    assert "2 new words: the mean" in report.table()


# ---- Coverage ------------------------------------------------------------------------------------


def test_coverage_of_byte_bpe_counts_characters_without_spaces():
    tokenizer = Tokenizer.train(texts=["é é é ab"], algorithm="byte_bpe", vocab_size=263)
    figures = measure(tokenizer, {"\u0120\u00c3\u00a9": 2, "\u0120": 1, "ab": 1})
    # " é" is one piece after two merges; a lone space is a piece and no word; ab is a, b.
    assert figures.words == 3 and figures.unknown_share == 0
    assert figures.pieces_per_word == 5 / 3 and figures.characters_per_piece == 4 / 5


# ---- The params file -----------------------------------------------------------------------------


KEYS = {
    "algorithm": ("byte_bpe", {"vocab_size": 300, "num_unused": None}),
    "vocab_size": (25, {}),
    "min_frequency": (7, {}),
    "limit_alphabet": (3, {}),
    "do_lower": (False, {"train_files": "$/upper.txt"}),
    "special_tokens": ([*SPECIAL, "[DOC]"], {}),
    "num_unused": (4, {}),
    "train_files": ("$/eval.txt", {}),
    "text_columns": ("b", {"train_files": "$/rows.csv"}),
    "delimiter": (";", {"train_files": "$/rows2.csv"}),
    "max_new_words": (1, "extension"),
    "new_words_at": ("end", "extension"),
    "extend_vocab_file": ("$/other.txt", "extension"),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_changes_the_vocabulary(folder, capsys, key):
    (folder / "upper.txt").write_text("Ab Ab AB AB ab ab\n")
    (folder / "rows.csv").write_text("text,b\nab abab,cc\nab abab,cc\n")
    (folder / "rows2.csv").write_text("text,x;text\nab,bb;cc\nab,bb;cc\n")
    (folder / "other.txt").write_text("".join(f"{entry}\n" for entry in [*BASE, "cab"]))
    value, others = KEYS[key]
    others = extension_keys(folder) if others == "extension" else others
    contents = []
    for changes in (others, others | {key: value}):
        changes = {
            k: v.replace("$", str(folder)) if isinstance(v, str) else v for k, v in changes.items()
        }
        out = folder / f"out{len(contents)}"
        code, said = run_on(folder, capsys, output_dir=str(out), **changes)
        assert code == 0, said.err
        contents.append((out / "tokenizer.json").read_text())
    assert contents[0] != contents[1]


def test_keys_of_data_sets_choose_the_texts(tmp_path, capsys):
    keys = {"dataset": "sample_glue/sst2", "data_dir": str(tmp_path / "tfds")}
    keys |= {"text_keys": "sentence", "eval_split": "validation", "train_files": None}
    code, _ = run_on(tmp_path, capsys, **keys, vocab_size=500)
    assert code == 0
    report = json.loads((tmp_path / "model_dir" / "vocab" / "report.json").read_text())
    assert report["words"] > 20_000 and report["coverage"]["this vocabulary"]["words"] > 2_000
    keys["train_split"] = "validation"
    code, _ = run_on(tmp_path, capsys, **keys, vocab_size=500, output_dir=str(tmp_path / "other"))
    assert json.loads((tmp_path / "other" / "report.json").read_text())["words"] < report["words"]


REFUSED = {
    "train_files, dataset: neither is given": {"train_files": None},
    "train_files, dataset: both are given": {"dataset": "glue/sst2"},
    "data_dir: not given; write the folder": {"dataset": "glue/sst2", "train_files": None},
    "line 2: vocabulary.eval_split: given without dataset": {"eval_split": "test"},
    r"without \[SEP\], which wordpiece needs": {"special_tokens": [*SPECIAL[:3], "[MASK]"]},
    r"begins with \[UNK\]; put \[PAD\] first": {"special_tokens": [*SPECIAL[1:], "[PAD]"]},
    "line 3: vocabulary.special_tokens: .* twice": {"special_tokens": [*SPECIAL, "[UNK]"]},
    "line 3: vocabulary.num_unused: is 2, but byte_bpe": {"algorithm": "byte_bpe"},
    "line 2: vocabulary.algorithm: is byte_bpe, but": {
        "algorithm": "byte_bpe",
        "extend_vocab_file": "x",
        "num_unused": None,
    },
    r"line 3: vocabulary.num_unused: of a new .*\n.*line 5: vocabulary.vocab_size: of a new": {
        "extend_vocab_file": "x"
    },
    r"vocab_sise: unknown key; did you mean vocab_size\?": {"vocab_sise": 3},
    "vocab_size: is 0; a number above 0 is wanted": {"vocab_size": 0},
    "vocab_size: is 9000000000000000000; a number of at most 10000000": {"vocab_size": 9 * 10**18},
    "num_unused: is 100000000000; a number of at most 10000000": {"num_unused": 10**11},
    "train_files: is an empty list; the path of a file or folder": {"train_files": []},
    "eval_files: is 3; the path of a file or folder is wanted": {"eval_files": ["a", 3]},
}


@pytest.mark.parametrize("match", REFUSED)
def test_what_cannot_be_is_refused_with_exit_code_2(folder, capsys, match):
    code, said = run_on(folder, capsys, **REFUSED[match])
    assert code == 2 and not (folder / "model_dir").exists()

    assert re.search(match, said.err), said.err


def test_texts_that_cannot_be_used_are_refused_with_exit_code_2(folder, capsys):
    (folder / "bad.txt").write_bytes(b"fine\nbad \xff\n")
    (folder / "empty.txt").write_bytes(b"")
    for name, said_of in {"bad.txt": "line 2: byte 5", "empty.txt": "no words"}.items():
        code, said = run_on(folder, capsys, train_files=str(folder / name))
        assert code == 2 and said_of in said.err
        code, said = run_on(folder, capsys, eval_files=str(folder / name))
        assert code == 2 and said_of in said.err
    code, said = run_on(folder, capsys, vocab_size=9)
    assert code == 2 and "vocab_size is 9, but the alphabet" in said.err
    assert not (folder / "model_dir").exists()


def test_flags_of_other_modes_and_files_of_them_are_refused(folder, capsys):
    code, said = run_on(folder, capsys, flags=["--max_steps", "3"])
    assert code == 2 and "runconfig.max_steps is not for --mode train_vocab" in said.err
    code, _ = run_on(folder, capsys, flags=["--override", "vocabulary.vocab_size=25"])
    assert code == 0
    assert len(read_vocab(folder / "model_dir/vocab/vocab.txt")) == 25
    with pytest.raises(UserError, match="vocabulary: not given; it says the texts"):
        get_vocabulary_file(ROOT / "configs" / "params_bert_tiny.yaml")
    with pytest.raises(UserError, match="vocabulary: unknown key; write it into a file of its own"):
        get_params(folder / "vocab.yaml")


def test_the_included_file_is_read_and_its_command_needs_no_tensorflow(tmp_path):
    file = get_vocabulary_file(ROOT / "configs" / "vocab_sample.yaml")
    assert isinstance(file, VocabularyFile) and isinstance(file.vocabulary, VocabularyParams)
    code = (
        "import sys, run; code = run.main(sys.argv[1:]); "
        "sys.exit(code or ('tensorflow' in sys.modules and 3))"
    )
    flags = ["--mode", "train_vocab", "--params", "configs/vocab_sample.yaml"]
    command = [sys.executable, "-c", code, *flags, "--model_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_python_of_the_page_works_as_it_is_written(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "vocabulary.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("A new sentence is one of several sentences.\n" * 3)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    encoding = names["encoding"]
    assert names["tokenizer"].decode(encoding.ids) == "a new sentence."
    assert (tmp_path / "vocab" / "vocab.txt").is_file() and len(encoding.offsets) == len(encoding)
