# SPDX-License-Identifier: Apache-2.0
"""input/prepared/prepare.py: a folder is made once, and the same whatever stops it."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from common.errors import RunError, UserError
from common.params.inputs import TrainInputParams
from input.prepared import prepare as module
from input.prepared.prepare import (
    Job,
    open_blocks,
    prepare,
    read_manifest,
    token_counts,
    verify,
)
from input.prepared.shard import RowSettings
from input.sources.documents import TextCorpus
from input.tokenizers.wordpiece import WordPieceTokenizer

ROOT = Path(__file__).resolve().parents[3]
WORDS = ("the", "cat", "sat", "on", "mat", "a", "dog", "ran", "far", "and", "away", "so")
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", "##s"]
make_tokenizer = partial(WordPieceTokenizer, VOCAB, True, "the test")


def write_corpus(path, num_documents=40, seed=0, twice=()):
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(num_documents):
        sentences = [
            " ".join(generator.choice(WORDS, generator.integers(3, 9))) + "."
            for _ in range(generator.integers(1, 6))
        ]
        documents.append("\n".join(sentences))
    documents += [documents[n] for n in twice]
    path.write_text("\n\n".join(documents) + "\n")
    return documents


@pytest.fixture
def make_job(tmp_path):
    """make_job(folder name, **RowSettings) -> Job of the corpus in tmp_path."""
    write_corpus(tmp_path / "corpus.txt", twice=(3, 3, 8))

    def make(name="out", duplicates="report", is_own=False, **settings):
        settings = {"sentence_pairs": "next", "room": 12, "seed": 5} | settings
        settings["looks_for_duplicates"] = duplicates == "report"
        corpus = TextCorpus([str(tmp_path / "corpus.txt")], shard_bytes=700)
        fingerprint = make_tokenizer().fingerprint
        row_settings = RowSettings(**settings)
        folder = tmp_path / name
        return Job(corpus, make_tokenizer, fingerprint, row_settings, duplicates, folder, is_own)

    return make


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def texts_of(store):
    tokens = store.read(np.arange(len(store)))
    texts = np.split(tokens.ids, tokens.offsets[1:-1])
    return [" ".join(VOCAB[i] for i in text) for text in texts]


# ---- What is made --------------------------------------------------------------------------------


def test_windows_hold_the_whole_corpus_and_its_counts(make_job, tmp_path):
    job = make_job(sentence_pairs="none", duplicates="keep")
    manifest = prepare(job, 1, "train")
    store = open_blocks(job.folder, manifest, len(VOCAB))
    text = " ".join((tmp_path / "corpus.txt").read_text().replace(".", " .").split())
    assert " ".join(texts_of(store)) == text
    words = text.split()
    assert manifest["tokens"] == len(words) and manifest["documents"] == 43
    counts = token_counts(job.folder, len(VOCAB))
    assert counts.tolist() == [words.count(entry) for entry in VOCAB]
    lengths = store.lengths(np.arange(len(store))).sum(axis=1)
    np.testing.assert_array_equal(store.length_counts, np.bincount(lengths, minlength=13))
    assert set(contents(job.folder)) == {
        "manifest.json",
        "token_counts.bin",
        *(f"shard-{n:05d}.safetensors" for n in range(len(job.corpus.shards))),
    }


def test_windows_across_documents_have_a_separator_between(make_job):
    job = make_job(sentence_pairs="none", separator_id=3)
    manifest = prepare(job, 1, "train")
    store = open_blocks(job.folder, manifest, len(VOCAB))
    lengths = store.lengths(np.arange(len(store)))[:, 0]
    # Only the last row of a shard is short.
    assert (lengths < 12).sum() <= len(job.corpus.shards) > 1
    separators = (store.read(np.arange(len(store))).ids == 3).sum()
    assert separators == manifest["documents"] - len(job.corpus.shards)


def test_the_bytes_do_not_depend_on_the_number_of_processes(make_job, monkeypatch):
    monkeypatch.setattr(module, "PROCESS_BYTES", 1)
    one, two = make_job("one"), make_job("two")
    prepare(one, 1, "train")
    prepare(two, 2, "train")
    assert contents(one.folder) == contents(two.folder)


def test_another_seed_gives_other_pairs_and_the_same_windows(make_job):
    made = {}
    for pairs in ("next", "none"):
        for seed in (1, 2):
            job = make_job(f"{pairs}{seed}", sentence_pairs=pairs, seed=seed)
            made[pairs, seed] = prepare(job, 1, "train")["content"]
    assert made["next", 1] != made["next", 2] and made["none", 1] == made["none", 2]


def test_held_out_documents_and_the_others_are_the_corpus(make_job, tmp_path):
    parts = {}
    for side in (False, True):
        job = make_job(
            f"side{side}", sentence_pairs="none", held_out_fraction=0.3, is_held_out=side
        )
        parts[side] = prepare(job, 1, "train")
    whole = prepare(make_job("whole", sentence_pairs="none"), 1, "train")
    for name in ("documents", "tokens", "rows"):
        assert parts[False][name] + parts[True][name] == whole[name]
    assert 3 <= parts[True]["documents"] <= 25  # of 43, where 13 are expected


@pytest.mark.parametrize(("is_held_out", "side"), [(False, "besides"), (True, "among")])
def test_one_document_that_is_on_the_other_side_is_no_empty_file(
    is_held_out, side, make_job, tmp_path
):
    (tmp_path / "corpus.txt").write_text("the cat sat on the mat.\n")
    fraction = 0.01 if is_held_out else 0.99
    job = make_job(held_out_fraction=fraction, is_held_out=is_held_out)
    with pytest.raises(UserError, match=f"text {side} those that eval_fraction {fraction} holds"):
        prepare(job, 1, "train")


@pytest.mark.parametrize("name", ["token_counts.bin", "shard-00001.safetensors"])
def test_every_file_of_a_finished_folder_is_looked_at(name, make_job):
    job = make_job(sentence_pairs="none")
    manifest = prepare(job, 1, "train")
    verify(job.folder, manifest, len(VOCAB))
    path = job.folder / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=name):
        verify(job.folder, manifest, len(VOCAB))


def test_long_lines_have_the_ids_of_the_whole_line(make_job, tmp_path, monkeypatch):
    from input.prepared import shard

    ids = []
    for size in (50_000, 11):
        monkeypatch.setattr(shard, "MAX_PIECE_BYTES", size)
        job = make_job(f"pieces{size}", sentence_pairs="none")
        ids.append(prepare(job, 1, "train")["content"])
    assert ids[0] == ids[1]


# ---- Duplicates ----------------------------------------------------------------------------------


def test_duplicates_are_reported_with_their_places(make_job, tmp_path):
    job = make_job(min_duplicate_line=20, sentence_pairs="none")
    manifest = prepare(job, 1, "train")
    blocks = (tmp_path / "corpus.txt").read_text().strip().split("\n\n")
    lines = [line for block in blocks for line in block.split("\n") if len(line) >= 20]
    repeated = len(lines) - len(set(lines))
    notes = "\n".join(manifest["repeated"])
    assert "3 of 43 documents (7.0%) repeat an earlier one" in notes
    assert f"{repeated} of {len(lines)} lines of 20 or more characters" in notes
    line = 1 + sum(block.count("\n") + 2 for block in blocks[:3])
    assert f"3 times: {tmp_path / 'corpus.txt'}, line {line}" in notes
    assert manifest["documents"] == 43


def test_duplicates_are_removed_on_request(make_job, tmp_path, monkeypatch):
    from input.prepared import duplicates

    monkeypatch.setattr(duplicates, "MAX_MERGED", 10)  # several ranges
    job = make_job(duplicates="remove", min_duplicate_line=20, sentence_pairs="none")
    manifest = prepare(job, 1, "train")
    blocks = (tmp_path / "corpus.txt").read_text().strip().split("\n\n")
    kept, seen = [], set()
    for block in dict.fromkeys(blocks):
        for line in block.split("\n"):
            if len(line) < 20 or line not in seen:
                kept.append(line)
            seen.add(line)
    store = open_blocks(job.folder, manifest, len(VOCAB))
    assert " ".join(texts_of(store)) == " ".join(" ".join(kept).replace(".", " .").split())
    assert "were removed" in manifest["repeated"][0]


# ---- Once, and again -----------------------------------------------------------------------------


def test_a_complete_folder_is_used_as_it_is(make_job, monkeypatch):
    job = make_job()
    first = prepare(job, 1, "train")
    monkeypatch.setattr(module, "make_shard", None)
    assert prepare(job, 1, "train") == first


def test_finished_shards_are_kept_and_damaged_ones_made_again(make_job, monkeypatch, capsys):
    job, whole = make_job("killed"), make_job("whole")
    made, real = [], module.make_shard

    def make_three(corpus, number, *rest):
        if len(made) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(number)
        return real(corpus, number, *rest)

    monkeypatch.setattr(module, "make_shard", make_three)
    with pytest.raises(RunError, match=r"No space left .* GB free\)\. Make room.*finished shards"):
        prepare(job, 1, "train")
    assert not (job.folder / "manifest.json").exists()
    damaged = job.folder / "shard-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    again = []
    monkeypatch.setattr(
        module, "make_shard", lambda corpus, n, *rest: again.append(n) or real(corpus, n, *rest)
    )
    prepare(job, 1, "train")
    assert again == [1, *range(3, len(job.corpus.shards))]
    assert "2 of" in capsys.readouterr().err
    prepare(whole, 1, "train")
    assert contents(job.folder) == contents(whole.folder)


def test_a_folder_of_other_keys_or_documents_is_refused(make_job, tmp_path):
    prepare(make_job(), 1, "train")
    told = r"prepared otherwise:\n  max_sequence_length without special tokens was 12, is now 9\n"
    with pytest.raises(UserError, match=told):
        prepare(make_job(room=9), 1, "train")
    os.utime(tmp_path / "corpus.txt", ns=(1, 1))
    with pytest.raises(UserError, match="of other documents, or these have changed"):
        prepare(make_job(), 1, "train")


def test_all_that_decides_the_rows_is_told_by_the_names_that_a_user_knows(make_job):
    known = {*TrainInputParams.model_fields, *module.KEY_OF}
    assert known >= make_job().meaning.keys()
    assert not {*TrainInputParams.model_fields} & module.KEY_OF.keys()


def test_a_manifest_that_is_none_is_refused(make_job):
    job = make_job()
    prepare(job, 1, "train")
    path = job.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for damage in (
        b"{",
        b"[]",
        json.dumps(manifest | {"length_counts": [-1]}).encode(),
        json.dumps(manifest | {"rows": 1.0}).encode(),
        json.dumps(manifest | {"rows": 0, "length_counts": [0], "shards": []}).encode(),
        json.dumps(manifest | {"texts_per_row": 3}).encode(),
        json.dumps(manifest | {"repeated": [5]}).encode(),
        json.dumps(manifest | {"meaning": "x"}).encode(),
        json.dumps(manifest | {"shards": [{"name": "../x", "rows": manifest["rows"]}]}).encode(),
    ):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"manifest.json cannot be read: .*delete it"):
            read_manifest(job.folder, is_own=False)


def test_a_folder_that_cannot_be_written_is_named(make_job, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/out failed: Not a directory\. Write prepared_dir or"):
        prepare(make_job("file/out"), 1, "train")


def test_a_cache_that_this_user_did_not_write_is_made_anew(make_job):
    job = make_job(is_own=True)
    first = prepare(job, 1, "train")
    path = job.folder / "manifest.json"
    assert read_manifest(job.folder, is_own=True) == first
    path.write_bytes(json.dumps(first | {"rows": 1}).encode())
    assert read_manifest(job.folder, is_own=True) is None
    assert prepare(job, 1, "train") == first


def test_documents_that_change_while_they_are_read_are_refused(make_job, tmp_path, monkeypatch):
    job, real = make_job(), module.make_shard

    def change(*arguments):
        with open(tmp_path / "corpus.txt", "a") as file:
            file.write("more\n")
        return real(*arguments)

    monkeypatch.setattr(module, "make_shard", change)
    with pytest.raises(UserError, match="changed while it was read"):
        prepare(job, 1, "train")
    assert not (job.folder / "manifest.json").exists()


def test_a_corpus_without_text_is_refused(make_job, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n \n")
    with pytest.raises(UserError, match="no document with text"):
        prepare(make_job(), 1, "train")


def test_bad_lines_of_another_process_are_a_sentence_of_this_one(make_job, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROCESS_BYTES", 1)
    with open(tmp_path / "corpus.txt", "ab") as file:
        file.write(b"\xff\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        prepare(make_job(), 2, "train")


# ---- Killed --------------------------------------------------------------------------------------

KILLED = """
import sys
from tests.input.prepared.test_prepare import *
corpus = TextCorpus([sys.argv[1]], shard_bytes=700)
settings = RowSettings("next", 12, seed=5, looks_for_duplicates=True)
fingerprint = make_tokenizer().fingerprint
job = Job(corpus, make_tokenizer, fingerprint, settings, "report", Path(sys.argv[2]), False)
module.PROCESS_BYTES = 1
print("ready", flush=True)
prepare(job, 2, "train")
"""


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_time_goes_on_to_the_same_bytes(make_job, tmp_path):
    write_corpus(tmp_path / "corpus.txt", num_documents=1500)
    whole = make_job("whole")
    prepare(whole, 1, "train")
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "corpus.txt"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    kills = 0
    while not (folder / "manifest.json").exists():
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        process.stdout.readline()
        before = len(list(folder.glob("shard-*.safetensors")))
        while process.poll() is None:
            if len(list(folder.glob("shard-*.safetensors"))) > before + 9 and kills < 20:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        process.wait()
        process.stdout.close()
    assert kills >= 5
    assert contents(folder) == contents(whole.folder)
