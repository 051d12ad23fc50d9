# SPDX-License-Identifier: Apache-2.0
"""Feeds the readers of checkpoints with broken files of every format.

    python -m tests.faults.fuzz_checkpoints --inputs 100000

A small checkpoint of each format is written by the project's own writers and the tests' helpers;
then one of its files is broken: anywhere, or within what its checksums and lengths cover, which are
made to fit again. Every input has to be read, or refused with a UserError, within 5 s of CPU time
and 2 GB; formats with checksums may not be read with other values than were written. The script
stops at the first input for which that does not hold, with the seed that makes it again.

The readers run in forked processes, so that a library that crashes is told of too. Those of HDF5
have each file read by a process of its own first; starting one takes half a second, so that here it
is forked instead. TensorFlow, which does not bear that, is imported for its own formats alone.
"""

import argparse
import contextlib
import faulthandler
import functools
import io
import json
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from common.checkpoints import store
from common.checkpoints.containers import hdf5, tf_bundle
from common.checkpoints.containers.tf_index import MAGIC, block_at, varint
from common.checkpoints.formats import cerebras_mdl, cerebras_tf, ours
from common.checkpoints.inspect import inspect_checkpoint
from common.checkpoints.load import LoadReport, match_weights, open_checkpoint
from common.checkpoints.names import NOT_OF_A_CLASSIFIER, WEIGHTS, LazyTensor
from common.errors import UserError
from common.params import Params
from common.training.run_state import RunState
from tests.faults.broken_bytes import broken
from tests.faults.forked import end_with
from tests.reference import tiny_bert
from tests.reference.shards import save_shards
from tests.reference.tf_index_files import table_of
from tests.reference.torch_files import save_legacy, save_zip

SECONDS, MAX_MEGABYTES = 5, 2000
HANG_SECONDS = 300  # in a library that does not return to Python: then the process is ended
NUM_LABELS, STEP = tiny_bert.NUM_CLASSES, 3
SIZES = {
    "V": tiny_bert.VOCAB_SIZE,
    "P": tiny_bert.POSITIONS,
    "S": 2,
    "D": tiny_bert.HIDDEN_SIZE,
    "F": tiny_bert.FILTER_SIZE,
    "C": NUM_LABELS,
}
SHAPES = {
    name.replace("{i}", "0"): tuple(SIZES[axis] for axis in axes)
    for name, axes in WEIGHTS.items()
    if not name.startswith(NOT_OF_A_CLASSIFIER)
}
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{i}" for i in range(SIZES["V"] - 4))]
PARAMS_YAML = "train_input:\n  vocab_size: 23\nmodel:\n  num_heads: 2\n  hidden_size: 6\n"
PIECES = [
    *(bytes(n) for n in (1, 2, 4, 8, 64)),
    *(b"\xff" * n for n in (1, 2, 4, 8, 64)),
    *(b"\x7f" + b"\xff" * n for n in (1, 3, 7)),
    *(b"\xff" * n + b"\x7f" for n in (1, 3, 7)),
    *(b"\x80" * n + b"\x01" for n in (1, 4, 9)),
    *(b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04", b"\x80\x02", b"\x89HDF\r\n\x1a\n"),
    *(b"TREE", b"SNOD", b"OHDR", b"HEAP", b"\x03\0\0\0", b"F32", b"F64", b"I64", b"BF16"),
    *(b"cos\nsystem\n", b"(X", b"tR.", b"q\x01", b"r\xff\xff\xff\xff", b"\x8a\xff", b"h\x00", b"."),
    *(b"}", b"{", b"[", b"]", b'"', b":", b",", b"null", b"-1", b"1e999", b"9" * 30, b"[" * 5000),
    *(b"\x1b[31m", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"../", b"/etc/passwd", b"\r\n"),
]  # fmt: skip
VALUES = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 1.5, -0.0),
    *(float("inf"), float("nan"), 1e-300, "", "F32", "x" * 3000, "\x1b[31m\n", "\ud800", "../x"),
    *([], {}, [[]], [0], [2**40, 2**40], [-1, 6], [0, 4], [4, 0], {"a": None}, ["\x00"]),
)


@dataclass
class Format:
    """A whole checkpoint.

    Attributes:
        opened: str, below its folder: what is given as --checkpoint_path.
        contents: {str: bytes} of its files, below its folder.
        has_checksums: bool. Damaged values are noticed.
        values: {neutral name: bytes}.
    """

    opened: str
    contents: dict
    has_checksums: bool
    values: dict


# ---- Whole checkpoints ---------------------------------------------------------------------------


def neutral_weights():
    """{neutral name: <float32>} of a classifier of one layer."""
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=s).astype(np.float32) for name, s in SHAPES.items()}


def huggingface_tensors():
    return tiny_bert.huggingface_tensors(NUM_LABELS, num_layers=1)


def make_safetensors(folder):
    tiny_bert.save_huggingface(folder, huggingface_tensors(), num_hidden_layers=1)
    return ""


def make_sharded_safetensors(folder):
    save_shards(folder, huggingface_tensors())
    return with_config(folder)


def with_config(folder):
    """Writes config.json anew, of one layer."""
    whole = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(whole))
    return ""


def make_torch(folder):
    make_safetensors(folder)
    (folder / "model.safetensors").unlink()
    save_zip(folder / "pytorch_model.bin", huggingface_tensors())
    return ""


def make_old_torch(folder):
    make_torch(folder)
    save_legacy(folder / "pytorch_model.bin", huggingface_tensors())
    return "pytorch_model.bin"


def make_sharded_torch(folder):
    save_shards(folder, huggingface_tensors(), "pytorch_model.bin")
    return with_config(folder)


def make_google(folder):
    from common.checkpoints.formats.google_tf1 import google_tensors

    tensors = google_tensors(neutral_weights()) | {"global_step": np.int64(STEP)}
    tf_bundle.write(folder / "bert_model.ckpt", tensors)
    (folder / "bert_config.json").write_text(json.dumps({"num_attention_heads": 2}))
    return "bert_model.ckpt"


def make_cerebras_tf(folder):
    scopes = {module: scope for scope, module in cerebras_tf.MODULES.items()}
    for scope, module in cerebras_tf.ATTENTION.items():
        scopes[f"encoder/layer_0/attention/{module}"] = f"encoder/self_attention/{scope}"
    for number, suffix in enumerate(("", "_1")):
        dense, norm = cerebras_tf.DENSE[number], cerebras_tf.NORMS[number]
        scopes[f"encoder/layer_0/feed_forward/{dense}"] = f"encoder/ffn/dense_layer{suffix}"
        scopes[f"encoder/layer_0/{norm}"] = f"encoder/layer_normalization_layer{suffix}"
    scopes["classifier"] = "cls_layer/cls_output_dense"
    tensors = {weight: name for name, weight in cerebras_tf.TENSORS.items()}
    renamed = {}
    for name, array in neutral_weights().items():
        module, _, part = name.rpartition("/")
        if name not in tensors:
            scope = scopes[module]
            tensors[name] = f"{scope}/{scope.rpartition('/')[2]}/{part}"
        renamed[tensors[name]] = array
    tf_bundle.write(folder / "model.ckpt-3", renamed)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-3"\n')
    (folder / "params.yaml").write_text(PARAMS_YAML)
    return ""


def make_keras(folder):
    from model import make_model

    make_model(tiny_bert.tiny_params(num_hidden_layers=1)).save_weights(folder / "model.weights.h5")
    (folder / "params.yaml").write_text(PARAMS_YAML)
    return "model.weights.h5"


def make_mdl(folder):
    modules = {ours: theirs for theirs, ours in cerebras_mdl.MODULES.items()}
    tensors = {ours: theirs for theirs, ours in cerebras_mdl.TENSORS.items()}
    with h5py.File(folder / "checkpoint_3.mdl", "w") as file:
        for name, array in neutral_weights().items():
            theirs = tensors.get(name)
            if theirs is None:
                module, _, part = name.replace("layer_0", "layer_{i}").rpartition("/")
                word = "weight" if part in ("kernel", "gamma") else "bias"
                theirs = f"{modules[module]}.{word}".replace("{i}", "0")
                array = array.T
            chunked = {"chunks": True, "compression": "gzip"} if array.ndim == 2 else {}
            dataset = file.create_dataset(f"model.model.{theirs}", data=array, **chunked)
            dataset.attrs["dtypes"] = ["torch.float32"]
        links = {
            "global_step": {"scalar_value": STEP},
            "model.again": {"__TYPE__": "LinkedObject", "key": f"model.model.{theirs}"},
        }
        for name, inner in links.items():
            name += cerebras_mdl.METADATA
            file.attrs[name] = json.dumps({name: inner})
        file.attrs.update(
            {"__cstorch_version__": "2.10.0", "__version__": 0.5, "__SUCCESS__": True}
        )
    (folder / "params.yaml").write_text(PARAMS_YAML)
    return ""


def make_ours(folder):
    state = {f"adamw/m/{name}": array for name, array in neutral_weights().items()}
    state |= {"global_step": np.int64(STEP)} | RunState(losses=[0.5]).to_arrays()
    config = {
        "hidden_size": SIZES["D"],
        "num_hidden_layers": 1,
        "num_heads": 2,
        "filter_size": SIZES["F"],
        "vocab_size": SIZES["V"],
        "max_position_embeddings": SIZES["P"],
        "encoder_nonlinearity": "gelu_erf",
        "layer_norm_epsilon": 1e-12,
        "label_names": ["a", "b", "c", "d", "e"],
        "step": STEP,
        "do_lower_case": True,
        "tf_random_seed": 7,
        "best_metric": "min eval/loss",
        "temperature": 1.5,
    }
    ours.save_checkpoint(folder, STEP, neutral_weights(), state, config, VOCAB)
    store.write_best(folder, STEP, value=0.5)
    return f"checkpoint-{STEP}"


MAKERS = {
    "safetensors": make_safetensors,
    "sharded safetensors": make_sharded_safetensors,
    "torch": make_torch,
    "old torch": make_old_torch,
    "sharded torch": make_sharded_torch,
    "mdl": make_mdl,
    "keras": make_keras,
    "ours": make_ours,
    "google": make_google,
    "cerebras_tf": make_cerebras_tf,
}
OF_TENSORFLOW = ("google", "cerebras_tf")
WITH_CHECKSUMS = ("ours", *OF_TENSORFLOW)


# ---- Breaking ------------------------------------------------------------------------------------


def broken_file(generator, content):
    # Most of a file is values; what a reader believes stands at its beginning or end.
    reach = generator.choice((len(content), len(content), min(len(content), 600)))

    def places(size):
        place = generator.randrange(min(reach, size) + 1)
        return size - place if generator.random() < 0.3 else place

    return broken(generator, content, PIECES, generator.choice((1, 1, 1, 2, 5)), places)


def broken_json(generator, content):
    """Valid JSON of another structure: a value or key replaced, left out or doubled."""
    tree = json.loads(content)
    for _ in range(generator.choice((1, 1, 2, 4))):
        nodes = [tree]
        for node in nodes:  # grows while it is walked
            children = node.values() if isinstance(node, dict) else node
            nodes += [child for child in children if isinstance(child, dict | list) and child]
        node = generator.choice(nodes)
        if not node:
            continue
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key, other = generator.choice(keys), generator.choice(keys)
        way = generator.randrange(5)
        if way == 0:
            del node[key]
        elif way == 1:
            node[key] = json.loads(json.dumps(node[other]))
        elif way == 2 and isinstance(node, dict):
            names = ("", "x", "__metadata__", "\x1b[31m", str(other)[:-1])
            node[generator.choice(names)] = node.pop(key)
        else:
            node[key] = generator.choice(VALUES)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def broken_header(generator, content):
    """A safetensors file whose header is broken and as long as it says."""
    size = int.from_bytes(content[:8], "little")
    header, values = content[8 : 8 + size], content[8 + size :]
    header = generator.choice((broken_file, broken_json, broken_json))(generator, header)
    return len(header).to_bytes(8, "little") + header + values


def broken_entry(generator, content):
    """A zip archive with one entry that is broken or renamed, and checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    if generator.random() < 0.2:
        name = generator.choice(list(entries))
    entries[name] = broken_file(generator, entries[name])
    if generator.random() < 0.1:
        entries[generator.choice(("x", "../x", "/x", "a/data.pkl", "\x1b[31m"))] = entries.pop(name)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    return stream.getvalue()


def broken_table(generator, content):
    """An index of TensorFlow's with an entry that is broken, and checksums that are right."""
    pairs = pairs_of(content)
    for _ in range(generator.choice((1, 1, 2))):
        place = generator.randrange(len(pairs))
        part = generator.choice((0, 1, 1, 1))
        pair = list(pairs[place])
        pair[part] = broken_file(generator, pair[part])
        pairs[place] = tuple(pair)
    if generator.random() < 0.8:
        pairs.sort()
    return table_of(pairs)


def pairs_of(content):
    """The (key, value) pairs of TensorFlow's index."""
    footer, position = content[-48:], 0
    assert footer.endswith(MAGIC)
    for _ in range(3):
        offset, position = varint(footer, position)
    size, _ = varint(footer, position)
    pairs = []
    for _, handle in block_at(content, offset, size):
        offset, position = varint(handle, 0)
        size, _ = varint(handle, position)
        pairs += block_at(content, offset, size)
    return pairs


def broken_hdf5(generator, content):
    """An HDF5 file, whole, with another attribute, data set, group or link than it had."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        objects = []
        file.visit(objects.append)
        change = generator.choice((change_attribute, change_member, change_member))
        with contextlib.suppress(*hdf5.ERRORS):  # what HDF5 cannot write is left out
            change(generator, file, objects)
    return stream.getvalue()


def change_attribute(generator, file, objects):
    """Gives an attribute of one of the objects, named by str, another value."""
    holders = [holder for holder in (file, *map(file.get, objects)) if len(holder.attrs)]
    attributes = generator.choice(holders).attrs
    key = generator.choice(list(attributes))
    value = attributes[key]
    if isinstance(value, str) and value.startswith("{") and generator.random() < 0.7:
        attributes[key] = broken_json(generator, value).decode("utf-8", "replace")
    else:
        values = ("", "x" * 5000, b"\xff\x00", 3, -1.5, [1, 2], ["a", "b"], h5py.Empty("f"))
        attributes[key] = generator.choice(values)


def change_member(generator, file, objects):
    """Puts something else in the place of one of the objects, or names it twice."""
    name = generator.choice(objects)
    way = generator.randrange(4)
    if way == 0:
        file[generator.choice((f"{name}/x", "vars", "x", name + "2"))] = file[name]
        return
    del file[name]
    if way == 1:
        links = (h5py.SoftLink("/"), h5py.SoftLink("/none"), h5py.ExternalLink("other.h5", "/x"))
        file[name] = generator.choice(links)
    elif way == 2:
        shape = generator.choice(((), (0,), (6,), (2**30, 2**20), (1,) * 9, (23, 6)))
        dtype = generator.choice(("f4", "f8", "i8", "S3", "?", "c8", h5py.string_dtype()))
        chunks = True if shape and 0 not in shape else None
        file.create_dataset(name, shape, dtype, chunks=chunks)
    elif generator.random() < 0.5:
        file.create_group(name)


def breakers_of(name):
    """The functions of (generator, content) that break a file of this name."""
    ways = [broken_file]
    if name.endswith(".json"):
        ways += [broken_json] * 2
    elif name.endswith(".safetensors"):
        ways += [broken_header] * 2
    elif name.endswith(".bin"):
        ways += [broken_entry] * 2
    elif name.endswith(".index"):
        ways += [broken_table] * 2
    elif name.endswith((".mdl", ".h5")):
        ways += [broken_hdf5]
    return ways


def sign(contents):
    """Makes the manifest of our own format fit the other files, as who means harm would."""
    folder = f"checkpoint-{STEP}"
    manifest = json.loads(contents[f"{folder}/{store.MANIFEST}"])
    for name in manifest["files"]:
        content = contents[f"{folder}/{name}"]
        digest = store.hashlib.blake2b(content).hexdigest()
        manifest["files"][name] = {"size": len(content), "blake2b": digest}
    contents[f"{folder}/{store.MANIFEST}"] = json.dumps(manifest).encode()


def break_one(generator, whole, name):
    """Returns ({file: bytes} of a checkpoint of which a file is broken, how, whether its values may
    be others)."""
    contents = dict(whole.contents)
    # The files of weights, of which there is most to get wrong, as often as all others together.
    names = sorted(contents, key=lambda file: -len(contents[file]))
    file = names[0] if generator.random() < 0.4 else generator.choice(names)
    breakers = breakers_of(file)
    if file == "pytorch_model.bin" and name == "old torch":
        breakers = [broken_file]
    breaker = generator.choice(breakers)
    contents[file] = breaker(generator, contents[file])
    if generator.random() < 0.02:
        contents.pop(file)
    if name == "ours" and file in contents and generator.random() < 0.5:
        try:
            sign(contents)
        except (ValueError, KeyError, TypeError, AttributeError):  # the manifest is the broken one
            return contents, file, False
        return contents, f"{file}, signed", True
    # A checksum that is right says nothing of who wrote it.
    return contents, file, not whole.has_checksums or breaker is broken_table


# ---- Reading -------------------------------------------------------------------------------------


def read_everything(path):
    """What `run.py` asks of a checkpoint. Returns {name: bytes of its values}."""
    checkpoint = open_checkpoint(path)
    text = inspect_checkpoint(path)
    check_text(text, 100_000)
    section = {"data_processor": "Sst2DataProcessor", "data_dir": "none", "batch_size": 3}
    section |= {"max_sequence_length": 7}
    params = Params.model_validate({"eval_input": section, "model": {}})
    params.complete(checkpoint.config, {"num_cls_classes": NUM_LABELS, "vocab_size": SIZES["V"]})
    if checkpoint.format == "ours":
        RunState.from_tensors(ours.read_state(path))
        float(checkpoint.config.get("temperature", 1.0))
        store.newest_checkpoint(Path(path).parent, on_skip=lambda text: check_text(text, 2000))
    values = {name: np.asarray(tensor) for name, tensor in checkpoint.weights.items()}
    variables = {name: LazyTensor(shape, None) for name, shape in SHAPES.items()}
    report, _ = match_weights(variables, checkpoint)
    assert isinstance(report, LoadReport)
    check_text(report.table(), 100_000)
    return {name: array.tobytes() for name, array in values.items()}


def check_text(text, most):
    """A text for a terminal: what a file says is not to move the cursor, or fill the screen."""
    if not all(map(str.isprintable, text.split("\n"))) or len(text) > most:
        raise AssertionError(f"a text with control characters, or too long: {text[:300]!r}")


def answer(folder, whole, may_differ):
    """What came of it: a word for the count. Anything that is not right is raised."""
    path = folder / whole.opened
    try:
        values = read_everything(str(path))
        if (folder / store.BEST).exists():
            store.best_checkpoint(folder)
    except UserError as error:
        check_text(str(error), 5000)
        return "refused"
    if values == whole.values:
        return "read, the same values"
    if not may_differ:
        raise AssertionError("read with other values than were written")
    return "read, other values"


def fork_and_wait(function):
    """Calls a function in a forked process. Returns its exit code; -n: signal n ended it."""
    pid = os.fork()
    if pid == 0:
        end_with(function, code_of_exception=1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@functools.cache
def survives_here(path, version, with_values):
    """In the place of `hdf5.survives`: the same by a fork, which takes milliseconds."""

    def read():
        faulthandler.disable()
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)  # raises: the file does not survive
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        hdf5.read_through(path, with_values)

    del version
    return fork_and_wait(read) == 0


def too_slow(signal_number, frame):
    raise AssertionError(f"more than {SECONDS} s of CPU time")


def read_inputs(wholes, seeds, folder, progress, results):
    """Reads the inputs of some seeds.

    Args:
        wholes: {name: Format}.
        seeds: iterable of int.
        folder: Path, absent.
        progress: mmap of 8 bytes, where the seed is kept that is being read.
        results: Path, for what came of them: JSON.
    """
    signal.signal(signal.SIGVTALRM, too_slow)
    faulthandler.enable()
    hdf5.survives = survives_here
    counts, slowest = Counter(), (0.0, 0)
    names = sorted(wholes)
    for seed in seeds:
        progress[:8] = seed.to_bytes(8, "little")
        generator = random.Random(seed)
        name = names[seed % len(names)]
        contents, file, may_differ = break_one(generator, wholes[name], name)
        shutil.rmtree(folder, ignore_errors=True)
        write_files(folder, contents)
        survives_here.cache_clear()
        start = cpu_seconds()
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            counts[f"{name}: {answer(folder, wholes[name], may_differ)}"] += 1
            found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            assert found == set(contents), f"files were written: {found - set(contents)}"
        except BaseException:
            print(f"{name}, {file}: {contents.get(file, b'')[:1000]!r}", file=sys.stderr)
            raise
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, (cpu_seconds() - start, seed))
        if peak_megabytes() > MAX_MEGABYTES:
            raise AssertionError(f"{name}, {file}: {peak_megabytes():.0f} MB")
    facts = {"counts": counts, "slowest": slowest, "megabytes": peak_megabytes()}
    results.write_text(json.dumps(facts))


def cpu_seconds():
    """Of this process and of those that it has forked: the machine may be busy."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_megabytes():
    """Of this process since it began, and of those that it has forked."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) / 1024


def write_files(folder, contents):
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make_wholes(folder, names):
    """Writes the checkpoints, in a process that may import TensorFlow."""
    for name in names:
        (folder / name).mkdir(parents=True)
        opened = MAKERS[name](folder / name)
        (folder / f"{name}.opened").write_text(opened)


def read_whole(folder, name):
    contents = {
        str(path.relative_to(folder / name)): path.read_bytes()
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }
    opened = (folder / f"{name}.opened").read_text()
    values = read_everything(str(folder / name / opened))
    return Format(opened, contents, name in WITH_CHECKSUMS, values)


def fuzz(num_inputs, seed, folder, names=tuple(MAKERS)):
    """Reads `num_inputs` broken checkpoints of the formats called `names`.

    Returns:
        counts: {format and what came of it: int}.
        slowest: (seconds, seed).
        megabytes: float.
    Raises:
        AssertionError: with the seed of an input that was neither read nor refused rightly.
    """
    whole_dir = folder / "whole"
    if not whole_dir.exists() and fork_and_wait(lambda: make_wholes(whole_dir, names)):
        raise AssertionError("the whole checkpoints could not be written")
    counts, slowest, megabytes = Counter(), (0.0, 0), 0.0
    progress = mmap.mmap(-1, 8)
    groups = [[n for n in names if (n in OF_TENSORFLOW) == of_them] for of_them in (False, True)]
    first = seed
    for group in filter(None, groups):
        count = num_inputs * len(group) // len(names)
        seeds = range(first, first + count)
        first += count

        def read(group=group, seeds=seeds):
            wholes = {name: read_whole(whole_dir, name) for name in group}
            read_inputs(wholes, seeds, folder / "work", progress, folder / "results")

        code = fork_and_wait(read)
        if code:
            seed = int.from_bytes(progress[:8], "little")
            raise AssertionError(
                f"seed {seed}: exit code {code}; see above, and again with "
                f"{' '.join(f'--format {n!r}' for n in group)} --seed {seed} --inputs 1"
            )
        facts = json.loads((folder / "results").read_text())
        counts.update(facts["counts"])
        slowest = max(slowest, tuple(facts["slowest"]))
        megabytes = max(megabytes, facts["megabytes"])
    return counts, slowest, megabytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first; each input has the next")
    parser.add_argument("--format", action="append", choices=MAKERS, help="default: all")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        names = args.format or tuple(MAKERS)
        counts, slowest, megabytes = fuzz(args.inputs, args.seed, Path(folder), names)
    seconds = time.monotonic() - began
    print(f"{counts.total():,} inputs in {seconds:.0f} s: no crash, no traceback, no hang")
    for name, count in sorted(counts.items()):
        print(f"{count:8,} {name}")
    print(f"  slowest {slowest[0]:.2f} s of CPU time (seed {slowest[1]})")
    print(f"  memory at most {megabytes:.0f} MiB")


if __name__ == "__main__":
    main()
