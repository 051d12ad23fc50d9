# SPDX-License-Identifier: Apache-2.0
"""A corpus to shards of rows in a folder, once; and what the folder says of itself.

    shard-00017.safetensors   rows, see `blocks.py`; written whole
    shard-00017.json          what was found in them, with the SHA-256; written afterwards
    counts-00017              int64 [V]: how often each id stands in the shard
    token_counts.bin          the same of all shards
    manifest.json             all of that together; written last, so that it says: complete

A run that is killed leaves finished shards, and the next one makes the others. Nothing depends on
the number of processes. A folder of the user's own cache has a sealed manifest, and one that the
user names is data like any other: `blocks.py` checks each row that it reads.
"""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.console import counted, format_duration, log
from common.errors import RunError, UserError, printable
from common.files import delete_leftovers, existing_above, hash_of, held, sha256, write_whole
from common.platform.seal import NotSealed, check_own, make_own, read_sealed, write_sealed
from common.signals import poll
from input.prepared import duplicates
from input.prepared.blocks import Blocks
from input.prepared.pairing import LABELS
from input.prepared.shard import VERSION, RowSettings, hash_shard, make_shard
from input.prepared.workers import map_unordered

MANIFEST, COUNTS = "manifest.json", "token_counts.bin"
LOG_SECONDS = 10.0  # between two lines of progress
SUMMED = (
    *("rows", "tokens", "documents", "sentences", "text_bytes"),
    *("empty_documents", "cut_documents", "cut_tokens", "unknown_tokens", "faults"),
)
MAX_LISTED = 20
MUCH_CUT = 0.4  # tokens cut for one that is kept; with sentences of a third of a row, it is 0.2
ANEW = "delete its folder, and it is prepared anew"
# {part of `Job.meaning`: what the user knows it as}, where that is not its name
KEY_OF = {
    "version": "the version of prepared rows",
    "tokenizer": "the vocabulary (vocab_file, do_lower)",
    "room": "max_sequence_length without special tokens",
    "overlap": "overlap_size",
    "separator_id": "the id of document_separator_token",
    "seed": "pairing_seed",
    "held_out_fraction": "eval_fraction",
    "is_held_out": "whether it holds the validation split",
    "min_duplicate_line": "duplicate_line_length",
    "looks_for_duplicates": "duplicates: report",
}
PROCESS_BYTES = 32_000_000  # of text for each process, which takes seconds to begin


@dataclass(frozen=True)
class Job:
    """What is to be prepared. It can be pickled, and its parts decide every byte of the shards."""

    corpus: Any  # TextCorpus or TfdsCorpus
    make_tokenizer: Callable  # () -> tokenizer
    tokenizer_fingerprint: str
    settings: RowSettings
    duplicates: str  # "keep", "report" or "remove"
    folder: Path | None
    is_own: bool = False  # a folder of the user's cache, and not one that the params name

    @property
    def meaning(self):
        """{name: value} of all that decides the rows, but for the documents."""
        return {
            "version": VERSION,
            "tokenizer": self.tokenizer_fingerprint,
            "duplicates": self.duplicates,
            **asdict(self.settings),
        }

    @property
    def fingerprint(self):
        return hash_of([self.meaning, self.corpus.fingerprint])

    def placed(self, cache):
        """Returns the Job in its folder of a cache, unless it has one. cache: Path."""
        if self.folder is not None:
            return self
        return replace(self, folder=cache / self.fingerprint[:16], is_own=True)


def prepare(job, num_processes, what, map_shards=map_unordered):
    """Returns the manifest of a complete folder, which is made or completed if it is not.

    Args:
        job: Job.
        num_processes: int.
        what: str, names the data in messages, such as "train".
        map_shards: as `workers.map_unordered`.
    Raises:
        UserError: documents cannot be used, or the folder holds other data.
        RunError: the disk is full, or a process has died; finished shards stay.
        Stopped: a signal has asked to stop.
    """
    manifest = read_manifest(job.folder, job.is_own)
    if manifest is not None:
        check_same(manifest, job)
        return manifest
    try:
        make_own(job.folder) if job.is_own else job.folder.mkdir(parents=True, exist_ok=True)
        with held(job.folder, waits=True):
            manifest = read_manifest(job.folder, job.is_own)  # of a run that was waited for
            if manifest is None or manifest["fingerprint"] != job.fingerprint:
                manifest = _prepare(job, num_processes, what, map_shards)
    except NotSealed as error:
        raise UserError(f"{job.folder} cannot be used: {error}; write another cache_dir") from None
    except OSError as error:
        raise RunError(_about_failure(job, what, error)) from error
    return manifest


def _about_failure(job, what, error):
    """Returns the sentence about a folder that cannot be written: str. error: OSError."""
    text = f"preparing {what} in {job.folder} failed: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(existing_above(job.folder)).free
        text += f" ({free / 1e9:.1f} GB free). Make room, and the same command goes on"
    else:
        text += ". Write prepared_dir or cache_dir, a folder that can be written to"
    return f"{text}; finished shards are kept"


def read_manifest(folder, is_own):
    """Returns the manifest of a complete folder, or None.

    Raises UserError where a folder that the user names has one that cannot be read.
    """
    path = Path(folder, MANIFEST)
    if is_own:
        try:
            check_own(folder)
            return json.loads(read_sealed(path, f"prepared {Path(folder).name}"))
        except (OSError, NotSealed, ValueError):
            return None
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_bytes())
        _check_types(manifest)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error}; delete it, and it is made anew") from None
    return manifest


def _check_types(manifest):
    """Raises ValueError, TypeError or KeyError where a manifest is none."""
    of_shards = [shard["rows"] for shard in manifest["shards"]]
    numbers = [*manifest["length_counts"], *of_shards, *(manifest[name] for name in SUMMED)]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("it has counts that are none")
    if not sum(manifest["length_counts"]) == sum(of_shards) == manifest["rows"] > 0:
        raise ValueError("its counts of rows differ")
    names = [shard["name"] for shard in manifest["shards"]]
    if any(Path(name).name != name for name in names):
        raise ValueError("it names files elsewhere")
    texts = [manifest["fingerprint"], manifest["content"], *manifest["repeated"]]
    texts += [*manifest["first_faults"], *(shard["sha256"] for shard in manifest["shards"])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("it has texts that are none")
    if (manifest["texts_per_row"], manifest["targets"]) not in ((1, []), (2, [LABELS])):
        raise ValueError("it has rows of another kind")
    dict(manifest["meaning"])


def check_same(manifest, job):
    """Raises UserError where a folder was prepared with other keys, or of other documents."""
    check_meaning(manifest, job)
    if manifest["fingerprint"] != job.fingerprint:
        raise UserError(
            f"{job.folder} was prepared of other documents, or these have changed since "
            f"({job.corpus}); delete the folder to have it prepared anew, write another "
            "prepared_dir, or leave out the documents to use it as it is"
        )


def check_meaning(manifest, job):
    """Raises UserError where a folder was prepared with other keys."""
    former = dict(manifest["meaning"])
    changed = [
        f"  {KEY_OF.get(name, name)} was {former.get(name)}, is now {value}"
        for name, value in job.meaning.items()
        if former.get(name) != value
    ]
    if changed:
        raise UserError(
            "\n".join([f"{job.folder} was prepared otherwise:", *changed])
            + "\nGive back the former values, delete the folder, or write another prepared_dir"
        )


def open_blocks(folder, manifest, vocab_size):
    """Returns the Blocks of a complete folder."""
    return Blocks(
        folder,
        [(shard["name"], shard["rows"]) for shard in manifest["shards"]],
        manifest["texts_per_row"],
        manifest["targets"],
        vocab_size,
        manifest["length_counts"],
        manifest["content"],
        notes_on(manifest),
        token_counts(folder, vocab_size),
    )


def verify(folder, manifest, vocab_size):
    """Reads every file of a complete folder. Raises UserError where one is not as it was made."""
    token_counts(folder, vocab_size)
    for shard in manifest["shards"]:
        poll()
        path = Path(folder, shard["name"])
        try:
            is_whole = sha256(path) == shard["sha256"]
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; {ANEW}") from None
        if not is_whole:
            raise UserError(f"{path} is not what was written; {ANEW}")


def token_counts(folder, vocab_size):
    """Returns how often each id stands in a complete folder, int64 [V]."""
    path = Path(folder, COUNTS)
    try:
        counts = np.fromfile(path, "<i8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {ANEW}") from None
    if len(counts) != vocab_size or counts.min() < 0:
        raise UserError(f"{path} is damaged; {ANEW}")
    return counts


def notes_on(manifest):
    """Returns what a reader should know of prepared data: list of sentences."""
    notes = []
    if manifest["faults"]:
        notes.append(
            "\n".join(
                [
                    f"{counted(manifest['faults'], 'line')} of the documents left out:",
                    *(f"  {fault}" for fault in manifest["first_faults"]),
                ]
            )
        )
    if manifest["empty_documents"]:
        empty = counted(manifest["empty_documents"], "document")
        notes.append(f"{empty} without text left out")
    if manifest["cut_documents"]:
        notes.append(f"{counted(manifest['cut_documents'], 'document')} cut, as too long for one")
    by_line = manifest["meaning"]["sentence_boundary"] == "line"
    if by_line and manifest["cut_tokens"] > MUCH_CUT * manifest["tokens"]:
        notes.append(
            f"{manifest['cut_tokens']:,} tokens were cut from pairs that were too long; "
            "sentence_boundary: punctuation makes shorter sentences of long lines"
        )
    return [printable(note) for note in (*notes, *manifest["repeated"])]


def describe(manifest):
    """Returns what stands in prepared data: str."""
    return (
        f"{counted(manifest['rows'], 'row')} of {manifest['tokens']:,} tokens, from "
        f"{counted(manifest['documents'], 'document')}, {manifest['text_bytes'] / 1e6:,.1f} MB"
    )


# ---- Making it -----------------------------------------------------------------------------------


def _prepare(job, num_processes, what, map_shards):
    """Makes what is missing of a folder. Returns the manifest."""
    delete_leftovers(job.folder)
    numbers = range(len(job.corpus.shards))
    repeated = []
    if job.duplicates == "remove":
        missing = [n for n in numbers if not duplicates.are_hashed(job.folder, n)]
        _make(
            job, partial(_Hasher, job), missing, num_processes, f"duplicates of {what}", map_shards
        )
        repeated = duplicates.find_repeated(job.folder, len(numbers))
    facts = {n: _finished(job, n) for n in numbers}
    missing = [n for n in numbers if facts[n] is None]
    if len(missing) < len(numbers):
        log(f"Preparing {what}: {len(numbers) - len(missing)} of {len(numbers)} shards are done")
    facts |= _make(job, partial(_Maker, job), missing, num_processes, what, map_shards)
    if job.duplicates == "report":
        repeated = duplicates.find_repeated(job.folder, len(numbers))
    manifest = _manifest(job, [facts[n] for n in numbers], repeated)
    _check_unchanged(job)
    if manifest["rows"] == 0:
        fraction, text = job.settings.held_out_fraction, f"{job.corpus} has no document with text"
        if fraction is None:
            raise UserError(f"{text}, so there is nothing to train on")
        side = "among" if job.settings.is_held_out else "besides"
        raise UserError(
            f"{text} {side} those that eval_fraction {fraction} holds out; give more documents, or "
            "eval_documents in its place"
        )
    _write_counts(job, len(numbers))
    content = json.dumps(manifest)
    path = job.folder / MANIFEST
    if job.is_own:
        write_sealed(path, content, f"prepared {job.folder.name}")
    else:
        write_whole(path, content)
    duplicates.delete_hashes(job.folder)
    for pattern in ("counts-*", "shard-*.json"):
        for file in job.folder.glob(pattern):
            file.unlink()
    return manifest


def _check_unchanged(job):
    if job.corpus.reopened().fingerprint != job.corpus.fingerprint:
        raise UserError(
            f"{job.corpus} changed while it was read; start again when the program that writes "
            "it has finished"
        )


def _finished(job, number):
    """Returns the facts of a shard that is there and whole, else None."""
    try:
        facts = json.loads(_facts_path(job, number).read_bytes())
        is_same = facts["fingerprint"] == job.fingerprint
        is_whole = is_same and sha256(job.folder / facts["name"]) == facts["sha256"]
        hashed = job.duplicates != "report" or duplicates.are_hashed(job.folder, number)
        return facts if is_whole and hashed else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(job, make_function, missing, num_processes, what, map_shards):
    """Returns {number: result} of the missing shards, and tells how it goes on."""
    results, total = {}, len(missing)
    num_processes = min(num_processes, max(1, job.corpus.num_bytes // PROCESS_BYTES))
    first = last = time.monotonic()
    megabytes = job.corpus.num_bytes / max(len(job.corpus.shards), 1) / 1e6
    for number, result in map_shards(make_function, missing, num_processes):
        results[number] = result
        now, done = time.monotonic(), len(results)
        if done <= num_processes:  # until each process has begun, there is no rate to tell
            first, counted_from = now, done
        elif now - last >= LOG_SECONDS or done == total:
            last = now
            rate = (done - counted_from) / (now - first)
            left = (total - done) / rate
            log(
                f"Preparing {what}: {done} of {total} shards, {rate * megabytes:.1f} MB/s"
                + (f", {format_duration(left)} left" if left else "")
            )
    return results


def _manifest(job, facts, repeated):
    shards = [
        {"name": each["name"], "rows": each["rows"], "sha256": each["sha256"]} for each in facts
    ]
    sums = {name: sum(each[name] for each in facts) for name in SUMMED}
    hashes = hashlib.sha256("".join(each["sha256"] for each in facts).encode()).hexdigest()
    counts = np.sum([each["length_counts"] for each in facts], axis=0)
    return {
        "fingerprint": job.fingerprint,
        "meaning": job.meaning,
        "documents_from": str(job.corpus),
        "texts_per_row": job.settings.texts_per_row,
        "targets": job.settings.targets,
        "content": f"{sums['rows']:,} rows, {hashes[:32]}",
        "length_counts": counts.tolist(),
        "first_faults": [fault for each in facts for fault in each["first_faults"]][:MAX_LISTED],
        "repeated": [text for each in repeated for text in _about(job, each)],
        "shards": shards,
        **sums,
    }


def _about(job, repeated):
    """Yields what a reader should know of Repeated."""
    if not repeated.number:
        return
    name = repeated.kind
    if name == "lines":
        name = f"lines of {job.settings.min_duplicate_line} or more characters"
    outcome = "were removed" if job.duplicates == "remove" else "duplicates: remove leaves them out"
    yield (
        f"{repeated.number:,} of {repeated.total:,} {name} "
        f"({repeated.number / repeated.total:.1%}) repeat an earlier one; {outcome}"
    )
    for times, shard, place in repeated.examples:
        yield f"  {times:,} times: {job.corpus.place_of(job.corpus.shards[shard], place)}"


def _write_counts(job, number):
    counts = sum(np.fromfile(_counts_path(job, n), "<i8") for n in range(number))
    write_whole(job.folder / COUNTS, counts.astype("<i8").tobytes())


def _name(number):
    return f"shard-{number:05d}.safetensors"


def _facts_path(job, number):
    return job.folder / f"shard-{number:05d}.json"


def _counts_path(job, number):
    return job.folder / f"counts-{number:05d}"


class _Maker:
    """Makes and writes shards, in one process. Called with a number, returns the facts."""

    def __init__(self, job):
        self.job, self.tokenizer = job, job.make_tokenizer()

    def __call__(self, number):
        job, repeated = self.job, None
        if job.duplicates == "remove":
            repeated = duplicates.repeated_in(job.folder, number)
        shard = make_shard(job.corpus, number, self.tokenizer, job.settings, repeated)
        if shard.hashes is not None:
            shard.hashes.write(job.folder, number)
        facts = shard.facts | {"name": _name(number), "fingerprint": job.fingerprint}
        write_whole(job.folder / facts["name"], shard.content)
        write_whole(_counts_path(job, number), shard.token_counts.astype("<i8").tobytes())
        write_whole(_facts_path(job, number), json.dumps(facts))
        return facts


class _Hasher:
    """Hashes documents and lines of shards, in one process."""

    def __init__(self, job):
        self.job = job

    def __call__(self, number):
        hash_shard(self.job.corpus, number, self.job.settings).write(self.job.folder, number)
