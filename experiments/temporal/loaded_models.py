# SPDX-License-Identifier: Apache-2.0
"""Models that stay loaded between inferences: a process each, so that a worker has no TensorFlow.

A process ends when its standard input does, so none outlives its worker.
"""

import asyncio
import json
import sys
from collections import OrderedDict
from pathlib import Path

from common.errors import RunError, UserError

PACKAGE = __package__
ROOT = Path(__file__).resolve().parents[len(PACKAGE.split("."))]  # of the modules' names
MAX_MODELS = 2
LINE_BYTES = 16 * 2**20  # of an answer


class LoadedModels:
    """Answers with the model of a folder, and keeps the `number` that were asked last.

    command: list of str, of the process; the arguments of answer.py come after it.
    """

    def __init__(self, number=MAX_MODELS, command=None):
        self.number, self.models, self.locks = number, OrderedDict(), {}
        self.command = command or [sys.executable, "-m", f"{PACKAGE}.answer"]

    async def ask(self, model_dir, max_seq_length, use_gpu, texts):
        """Returns {"predicted_labels": list of int, "confidences": list of float}.

        Raises UserError where the model or the texts are refused, RunError where the process ends.
        """
        key = str(model_dir), max_seq_length, use_gpu
        async with self.locks.setdefault(key, asyncio.Lock()):  # one question at a time
            process = await self._process(key)
            question = json.dumps({"texts": texts}) + "\n"
            try:
                process.stdin.write(question.encode())
                await process.stdin.drain()
                line = await process.stdout.readline()
            except (OSError, ValueError) as error:
                self._end(key)
                raise RunError(f"the process of {model_dir} gave no answer: {error}") from None
            except asyncio.CancelledError:  # an answer on its way would be the next one's
                self._end(key)
                raise
            if not line:
                self._end(key)
                code = await process.wait()
                raise RunError(f"the process of {model_dir} ended with exit code {code}")
            answer = json.loads(line)
            if "error" in answer:
                raise UserError(answer["error"])
            return answer

    async def _process(self, key):
        process = self.models.get(key)
        if process is None or process.returncode is not None:
            model_dir, length, use_gpu = key
            flags = [model_dir, str(length), "gpu" if use_gpu else "cpu"]
            process = await asyncio.create_subprocess_exec(
                *self.command,
                *flags,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
                limit=LINE_BYTES,
                start_new_session=True,
            )
            self.models[key] = process
        self.models.move_to_end(key)
        while len(self.models) > self.number:
            self._end(next(iter(self.models)))
        return process

    def _end(self, key):
        process = self.models.pop(key, None)
        if process is not None:
            process.stdin.close()

    async def close(self):
        """Ends all processes."""
        processes = list(self.models.values())
        for key in list(self.models):
            self._end(key)
        for process in processes:
            await process.wait()
