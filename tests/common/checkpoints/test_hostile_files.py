# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile files of every format: refused with one sentence, quickly, nothing executed.

`CASES` holds a function for each that writes its file below a folder and returns the path to give
as --checkpoint_path. One process opens them all under a limit of memory.
"""

import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from tests.reference.tf_index_files import table_of, varint
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface
from tests.reference.torch_files import Rebuilt, Stored, save_zip

ROOT = Path(__file__).parents[3]
MAX_MEMORY = 1_000_000_000
# Runs a command and prints its peak in kB. A process of its own, because ru_maxrss begins with the
# memory of the process that starts the command, and that of pytest reaches a gigabyte.
PEAK_OF = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
LOUD = "executed"  # the file that a hostile one would write

CASES = {}


def case(message):
    """Registers a writer of a file, and the part of the sentence that it is to be refused with."""

    def register(write):
        CASES[write.__name__] = (write, message)
        return write

    return register


def cut(path, keep):
    """Keeps the first `keep` bytes of a file, or all but -keep."""
    path.write_bytes(path.read_bytes()[:keep])
    return path


def sparse(path, size, head=b"", tail=b""):
    """A file of a size that takes no room on disk."""
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)
        if tail:
            file.seek(0, os.SEEK_END)
            file.write(tail)
    return path


# ---- safetensors ---------------------------------------------------------------------------------


@case("it is empty")
def safetensors_empty(folder):
    save_huggingface(folder, huggingface_tensors())
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@case("bytes are not as many as it says")
def safetensors_truncated(folder):
    save_huggingface(folder, huggingface_tensors())
    cut(folder / "model.safetensors", -100)
    return folder


@case("no safetensors file, or damaged")
def safetensors_absurd_shape(folder):
    name = "embeddings.word_embeddings.weight"
    header = {name: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    return path


@case("its header has more than 10,000,000 bytes")
def safetensors_header_of_90_mb(folder):
    head = struct.pack("<Q", 90_000_000) + b'{"a":['
    return sparse(folder / "model.safetensors", 100_000_000, head)


@case("Git LFS pointer")
def safetensors_lfs_pointer(folder):
    path = folder / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    return path


@case("nothing that can be loaded")
def safetensors_link_to_itself(folder):
    (folder / "model.safetensors").symlink_to("model.safetensors")
    return folder


@case("nothing that can be loaded")
def safetensors_pipe(folder):
    os.mkfifo(folder / "model.safetensors")  # to open one waits forever
    return folder


# ---- Index of shards -----------------------------------------------------------------------------


def index_of(folder, *names):
    weight_map = {f"bert.{i}": name for i, name in enumerate(names)}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return folder


@case("'../secret.safetensors', which is no .safetensors file in its own folder")
def index_points_above(folder):
    save_file(huggingface_tensors(), folder / "secret.safetensors")
    (folder / "model").mkdir()
    return index_of(folder / "model", "../secret.safetensors")


@case("which is no .safetensors file in its own folder")
def index_points_to_the_root(folder):
    return index_of(folder, "/etc/passwd")


@case("outside its folder")
def index_through_a_link(folder):
    save_file(huggingface_tensors(), folder / "secret.safetensors")
    (folder / "model").mkdir()
    (folder / "model" / "a.safetensors").symlink_to("../secret.safetensors")
    return index_of(folder / "model", "a.safetensors")


@case("is missing, but model.safetensors.index.json names it")
def index_without_its_shard(folder):
    return index_of(folder, "model-00001-of-00002.safetensors")


@case("cannot be read as JSON")
def index_too_deep(folder):
    (folder / "model.safetensors.index.json").write_text("[" * 1_000_000)
    return folder


# ---- pytorch_model.bin ---------------------------------------------------------------------------


class Loud:
    """Unpickled, writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def zip_of(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", content)
    return path


@case("asks to run 'posix.system'; it was not run")
def pickle_runs_code(folder):
    return zip_of(folder / "pytorch_model.bin", pickle.dumps({"x": Loud(folder / LOUD)}, 2))


@case("asks to run 'posix.system'; it was not run")
def pickle_runs_code_without_a_zip(folder):
    path = folder / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Loud(folder / LOUD), 4))
    return path.parent


@case("asks for pickle's INST")
def pickle_runs_code_by_an_old_instruction(folder):
    command = f"touch {folder / LOUD}".encode()
    content = b"\x80\x02(X" + struct.pack("<L", len(command)) + command + b"ios\nsystem\n."
    return zip_of(folder / "pytorch_model.bin", content)


@case("asks to run 'builtins.eval'")
def pickle_evaluates(folder):
    code = f"open({str(folder / LOUD)!r}, 'w')"
    content = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c" + bytes([len(code)]) + code.encode()
    return zip_of(folder / "pytorch_model.bin", content + b"\x85R.")


@case("asks for pickle's BYTEARRAY8")
def pickle_allocates(folder):
    content = b"\x80\x05\x96" + struct.pack("<Q", 64) + bytes(64) + b"."
    return zip_of(folder / "pytorch_model.bin", content)


@case("damaged")
def pickle_memo_of_billions(folder):
    content = b"\x80\x02}r\xff\xff\xff\xffr\x00\xff\xff\xff."  # two numbers for one dictionary
    return zip_of(folder / "pytorch_model.bin", content)


@case("is compressed")
def zip_bomb(folder):
    path = folder / "pytorch_model.bin"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a/data.pkl", "w", force_zip64=True) as file,
    ):
        for _ in range(120):  # 1.2 GB, in 5 MB
            file.write(bytes(10_000_000))
    return path


@case("its directory has more than")
def zip_directory_of_gigabytes(folder):
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 3_000_000_000, 0, 0)
    return sparse(folder / "pytorch_model.bin", 3_000_000_000, b"PK\x03\x04", end)


@case("does not fit into its 12 values")
def torch_absurd_shape(folder):
    tensor = Rebuilt(Stored(np.zeros(12, np.float32)), 0, (2**40, 2**20), (1, 1))
    save_zip(folder / "pytorch_model.bin", {"bert.embeddings.word_embeddings.weight": tensor})
    return folder


@case("it ends before its directory")
def torch_truncated(folder):
    save_zip(folder / "pytorch_model.bin", huggingface_tensors())
    return cut(folder / "pytorch_model.bin", -5000).parent


# ---- TensorFlow ----------------------------------------------------------------------------------


HEADER = (b"", b"\x08\x01\x1a\x02\x08\x01")  # one data file, version 1


def tf_checkpoint(folder, index, data=bytes(64)):
    (folder / "bert_model.ckpt.index").write_bytes(index)
    (folder / "bert_model.ckpt.data-00000-of-00001").write_bytes(data)
    return folder / "bert_model.ckpt"


def tf_entry(shape, size):
    dims = b"".join(b"\x12" + varint(len(varint(n)) + 1) + b"\x08" + varint(n) for n in shape)
    return b"\x08\x01\x12" + varint(len(dims)) + dims + b"\x28" + varint(size)


@case("it is empty")
def tf_empty(folder):
    return tf_checkpoint(folder, b"")


@case("it is not a checkpoint's index, or cut off")
def tf_truncated(folder):
    return tf_checkpoint(folder, table_of([HEADER, (b"a", tf_entry([16], 64))])[:-20])


@case("a checksum is wrong")
def tf_one_bit(folder):
    index = bytearray(table_of([HEADER, (b"a", tf_entry([16], 64))]))
    index[20] ^= 1
    return tf_checkpoint(folder, bytes(index))


@case("its 64 bytes are not as many as bert_model.ckpt.index says")
def tf_data_truncated(folder):
    return tf_checkpoint(folder, table_of([HEADER, (b"a", tf_entry([1000], 4000))]))


@case("is damaged (a message has a field 15")  # TensorFlow ends the process on this one
def tf_message_that_is_none(folder):
    return tf_checkpoint(folder, table_of([HEADER, (b"a", b"\x7f\xff")]))


@case("a variable is of shape [1099511627776, 1099511627776]")
def tf_absurd_shape(folder):
    entry = tf_entry([2**40, 2**40], 64)
    name = b"bert/embeddings/word_embeddings"
    return tf_checkpoint(folder, table_of([HEADER, (name, entry)]))


@case("takes 64 bytes, not 4,000,000,000")
def tf_shape_larger_than_its_bytes(folder):
    entry = tf_entry([1_000_000_000], 64)
    name = b"bert/embeddings/word_embeddings"
    return tf_checkpoint(folder, table_of([HEADER, (name, entry)]))


@case("data-00000-of-00001 is missing")
def tf_without_data(folder):
    path = tf_checkpoint(folder, table_of([HEADER, (b"a", tf_entry([16], 64))]))
    (folder / "bert_model.ckpt.data-00000-of-00001").unlink()
    return path


# ---- HDF5 ----------------------------------------------------------------------------------------


def h5_file(path, write):
    import h5py

    with h5py.File(path, "w") as file:
        write(file, h5py)
    return path


@case("it is empty")
def h5_empty(folder):
    (folder / "checkpoint_0.mdl").write_bytes(b"")
    return folder


@case("it is no HDF5 file, or damaged")
def h5_truncated(folder):
    def write(file, _):
        file.create_dataset("embeddings/vars/0", data=np.zeros((1000, 6), np.float32))

    return cut(h5_file(folder / "model.weights.h5", write), -5000)


@case("it is no HDF5 file, or damaged")
def h5_that_is_text(folder):
    (folder / "model.weights.h5").write_text("weights\n" * 100)
    return folder


@case("but the file holds only 0 for it")
def h5_absurd_shape(folder):
    def write(file, _):
        file.create_dataset("embeddings/vars/0", (2**30, 2**20), "f4", chunks=(64, 64))

    return h5_file(folder / "model.weights.h5", write)


@case("but the file holds only")
def mdl_absurd_shape(folder):
    def write(file, _):
        file.attrs["__cstorch_version__"] = "2.10.0"
        name = "model.model.bert.embedding_layer.word_embeddings.weight"
        table = file.create_dataset(name, (2**40, 2**10), "f4", chunks=(64, 64), compression="gzip")
        table[0, 0] = 1

    return h5_file(folder / "checkpoint_0.mdl", write)


@case("lies in other files")
def h5_values_of_another_file(folder):
    (folder / "secret").write_bytes(bytes(96))

    def write(file, _):
        secret = [(str(folder / "secret"), 0, 96)]
        file.create_dataset("embeddings/vars/0", (4, 6), "f4", external=secret)

    return h5_file(folder / "model.weights.h5", write)


@case("is a link to elsewhere")
def h5_link_to_another_file(folder):
    h5_file(folder / "secret.h5", lambda file, _: file.create_dataset("x", data=np.zeros(3)))

    def write(file, h5py):
        file.create_group("embeddings/vars")["0"] = h5py.ExternalLink("secret.h5", "x")

    return h5_file(folder / "model.weights.h5", write)


@case("lies in itself")
def h5_group_in_itself(folder):
    def write(file, _):
        group = file.create_group("embeddings")
        for i in range(10):
            group[f"again_{i}"] = group

    return h5_file(folder / "model.weights.h5", write)


@case("the library that reads HDF5 crashes on it")
def h5_that_crashes_its_library(folder):
    path = h5_file(folder / "model.weights.h5", lambda file, _: file.attrs.update(name="bert"))
    content = path.read_bytes()
    text_type = b"name\0\0\0\0\x19\x01"  # of the attribute: class 9, a text
    assert text_type in content
    path.write_bytes(content.replace(text_type, text_type[:-1] + b"\xff"))
    return path


@case("which is no number")
def h5_of_texts(folder):
    def write(file, h5py):
        file.create_dataset("embeddings/vars/0", (4, 6), h5py.string_dtype())

    return h5_file(folder / "model.weights.h5", write)


@case("stands for a tensor that is not in the file")
def mdl_links_in_a_circle(folder):
    def write(file, _):
        file.attrs["__cstorch_version__"] = "2.10.0"
        for name, key in (("model.a", "model.b"), ("model.b", "model.a")):
            inner = {"__TYPE__": "LinkedObject", "key": key}
            name += ".__metadata__"
            file.attrs[name] = json.dumps({name: inner})

    return h5_file(folder / "checkpoint_0.mdl", write)


@case("it was not completed")
def mdl_not_completed(folder):
    return h5_file(folder / "checkpoint_0.mdl", lambda file, _: file.attrs.update(__version__=0.5))


# ---- Others --------------------------------------------------------------------------------------


@case("nothing that can be loaded; found a file of 1,000 bytes")
def a_photograph(folder):
    path = folder / "weights.bin"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(996))
    return path


@case("params.yaml, beside the checkpoint, cannot be read as YAML")
def params_that_run_code(folder):
    entry = tf_entry([4, 4], 64)
    path = tf_checkpoint(folder, table_of([HEADER, (b"input_embedding/embedding_weights", entry)]))
    command = f"touch {folder / LOUD}"
    (folder / "params.yaml").write_text(f"model: !!python/object/apply:os.system ['{command}']")
    return path


# ---- Tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_with_one_sentence(tmp_path, name):
    write, message = CASES[name]
    path = write(tmp_path)
    with pytest.raises(UserError) as refusal:
        open_and_read(path)
    text = str(refusal.value)
    assert message in text
    assert "\n" not in text and len(text) < 1000
    assert not (tmp_path / LOUD).exists()


def open_and_read(path):
    checkpoint = open_checkpoint(path)
    for tensor in checkpoint.weights.values():
        np.asarray(tensor)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_all_of_them_together_take_less_than_a_gigabyte(tmp_path):
    """The peak of a process of its own, whose address space has no room for what files promise."""
    assert len(CASES) >= 20
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, peak = json.loads(done.stdout.splitlines()[-1])
    assert refused == len(CASES)
    print(f"{refused} files refused, peak {peak / 1e6:.0f} MB")  # shown by pytest -s
    assert peak < MAX_MEMORY


@pytest.mark.slow
def test_the_command_refuses_each_with_one_line_exit_code_2_and_little_memory(tmp_path):
    peaks = {}
    for name, (write, message) in CASES.items():
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, "run.py", "--mode", "inspect", "--checkpoint_path"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK_OF, *command, write(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, (name, done.stderr)
        assert message in done.stderr and done.stderr.count("\n") == 1, (name, done.stderr)
        assert not (folder / LOUD).exists()
        peaks[name] = int(done.stdout) * 1024
    worst = max(peaks, key=peaks.get)
    # Shown by pytest -s.
    print(f"{len(peaks)} files refused, peak {peaks[worst] / 1e6:.0f} MB of {worst}")
    assert peaks[worst] < MAX_MEMORY


def main(folder):
    refused = 0
    for name, (write, _) in CASES.items():
        path = Path(folder, name)
        path.mkdir()
        path = write(path)
        resource.setrlimit(resource.RLIMIT_AS, (8 * MAX_MEMORY, -1))
        try:
            open_and_read(path)
        except UserError:
            refused += 1
        shutil.rmtree(Path(folder, name))
    # Not ru_maxrss of this process, which begins with the memory of the one that started it.
    status = Path("/proc/self/status").read_text()
    own = int(status.split("VmHWM:")[1].split()[0])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([refused, max(own, children) * 1024]))


if __name__ == "__main__":
    main(sys.argv[1])
