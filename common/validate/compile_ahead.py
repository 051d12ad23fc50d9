# SPDX-License-Identifier: Apache-2.0
"""`--compile_only`: makes every program that the run will need, and trains nothing.

Each program is traced, kept (`platform/kept_programs.py`), taken up again as a run would, and run
once on variables that are thrown away, so that XLA compiles its fused loops and keeps their machine
code (`platform/machine_code.py`). Checkpoints of model_dir are neither read into the network nor
written.
"""

import time

import numpy as np
import tensorflow as tf

from common.console import closing_summary, counted, log
from common.optimizers.factory import optimizer_of
from common.platform.kept_programs import (
    config_dir,
    read_entries,
    shape_name,
    variables_of,
    write_manifest,
    write_program,
)
from common.platform.machine_code import keep_machine_code, machine_dir, own_dir
from common.platform.program_bytes import NotKept, bind, keep_optimized_graph, to_bytes, trace
from common.platform.tf_private import optimizing_once
from common.tasks.distillation import TEACHER
from common.tasks.targets import PREDICTED
from common.training.budget import MAX_UPDATES
from common.training.inference import Inference
from common.training.teacher import without_values
from common.training.train_step import Replica
from common.validate.graph import Program

# Title, key of the figures, unit, and text: seconds to trace, compile and load; size of the program
# and of its machine code; FLOP of matrix products and most bytes of intermediate results, both
# counted from the graph (`graph.py`).
COLUMNS = (
    ("traced", "trace_seconds", 1, "{:.1f} s"),
    ("compiled", "compile_seconds", 1, "{:.1f} s"),
    ("loaded", "load_seconds", 1, "{:.1f} s"),
    ("file", "file_bytes", 1e6, "{:.2f} MB"),
    ("code", "code_bytes", 1e6, "{:.2f} MB"),
    ("products", "flops", 1e9, "{:.1f} GFLOP"),
    ("buffers", "peak_buffer_bytes", 1e6, "{:.0f} MB"),
)


def compile_ahead(session):
    """Compiles the programs of the mode and prints a line for each. Returns exit code 0."""
    started, params = time.monotonic(), session.params
    compiled = own_dir(params.runconfig.model_dir)
    folder = config_dir(compiled, params)
    entries, total, count = read_entries(folder), {"file": 0, "code": 0}, 0  # of another mode, too
    log("  ".join(f"{title:>12}" for title in ("program", *(title for title, *_ in COLUMNS))))
    for kind, step, variables, examples in _steps(session):
        for arguments in examples:
            name = shape_name(kind, arguments[0])
            try:
                entries[name] = _compile(name, step, variables, arguments, folder, compiled)
            except NotKept as reason:
                log(f"{name} is not kept: {reason}")
                continue
            count += 1
            figures = entries[name]["figures"]
            total = {key: total[key] + figures[f"{key}_bytes"] for key in total}
            row = (text.format(figures[key] / unit) for _, key, unit, text in COLUMNS)
            log("  ".join(f"{text:>12}" for text in (name, *row)))
    write_manifest(folder, params, entries)
    items = [
        ("Compiled", f"{counted(count, 'program')} in {time.monotonic() - started:.0f} s"),
        ("Programs", f"{folder}, {total['file'] / 1e6:.1f} MB"),
        ("Machine code", f"{machine_dir(compiled) / 'xla'}, {total['code'] / 1e6:.1f} MB"),
        ("Next", "the same command without --compile_only loads them"),
    ]  # fmt: skip
    log(closing_summary(items))
    return 0


def _steps(session):
    """Yields (kind, step, {name: variable}, list of arguments) of the session's mode."""
    params, run, data = session.params, session.run, session.data
    model = session.new_model()
    if session.is_training:
        optimizer = optimizer_of(model, params)
        replica = Replica(session.model_fn, params, model, optimizer, mean=lambda tensors: tensors)
        num_steps = run.steps if run.max_steps is None else run.max_steps
        if run.max_seconds is not None:
            num_steps = num_steps or MAX_UPDATES
        batches = without_values(model, data.train_input_fn(params, 0, num_steps or 1))
        examples = _examples(batches, 2)
        variables = variables_of(model, optimizer, replica.sums)
        if params.optimizer.accumulation.is_single:
            yield "train", replica.update_from, variables, examples
        else:
            examples = [(*example, tf.constant(0), tf.constant(1)) for example in examples]
            yield "add", replica.add, variables, examples
    if run.mode == "train" and not run.calibrates:
        return
    if run.mode == "predict":
        splits, _ = data.predict_input_fn(params, session.texts)
    else:
        splits = data.eval_input_fn(params)
    inference = Inference(session, model)
    kernels = inference.kernels()
    examples = {}
    is_scored = model.has_scores and run.mode != "predict"
    kind, step = ("score", inference.scores_of) if is_scored else ("predict", inference.outputs_of)
    for batches in splits.values():
        for example in _examples(batches, 2 if is_scored else 1):
            examples[shape_name(kind, example[0])] = *example, kernels
    yield kind, step, variables_of(model), list(examples.values())


def _examples(batches, num_parts):
    """Returns arguments of zeros for each shape of some Batches, the smallest first.

    num_parts: int. How much of (features, targets) a step takes.
    """
    spec = batches.dataset.element_spec[:num_parts]
    batch_size = batches.batch_size

    def zeros(name, each, shape, is_target):
        rows, length = shape
        if name.startswith(TEACHER):
            return tf.zeros([shape[1] if size is None else size for size in each.shape], each.dtype)
        if name == "starts":  # apart, since a position beyond the longest row is in no table
            return tf.range(batch_size) * (rows * length) // batch_size
        if name in PREDICTED:
            length = batches.num_predictions(length)
        elif is_target:  # packed, the features have fewer and longer rows than the batch
            rows = batch_size
        return tf.zeros([batch_size] if each.shape.rank == 1 else [rows, length], each.dtype)

    return [
        tuple(
            {name: zeros(name, each, shape, n > 0) for name, each in part.items()}
            for n, part in enumerate(spec)
        )
        for shape in batches.distinct_shapes
    ]


def _compile(name, step, variables, arguments, folder, compiled):
    """Makes one program and writes it. Returns its entry of the manifest."""
    code_before = keep_machine_code(compiled)
    start = time.perf_counter()
    concrete = trace(step, arguments)
    traced = time.perf_counter() - start
    content, entry = to_bytes(concrete, variables, f"{folder.name}_{name}_")
    start = time.perf_counter()
    program = bind(content, entry, variables, arguments)
    loaded = time.perf_counter() - start
    times = []

    def computed(*arguments):
        start = time.perf_counter()
        with optimizing_once():
            tf.nest.map_structure(np.asarray, program(*arguments))
        times.append(time.perf_counter() - start)

    _, content, entry = keep_optimized_graph(content, entry, computed, arguments)
    computed(*arguments)  # which shows what of the first call was computing
    entry = write_program(folder, name, content, entry)
    library = concrete.graph.as_graph_def().library.function
    shape = tuple(arguments[0]["input_ids"].shape)
    traced_program = Program(shape, tuple(concrete.graph.get_operations()), tuple(library))
    figures = {
        "trace_seconds": traced,
        "compile_seconds": max(0.0, times[0] - times[1]),
        "load_seconds": loaded,
        "file_bytes": len(content),
        "code_bytes": keep_machine_code(compiled) - code_before,
        "flops": traced_program.flops,
        "peak_buffer_bytes": traced_program.peak_bytes,
    }
    return entry | {"shape": shape, "figures": figures}
