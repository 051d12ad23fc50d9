# SPDX-License-Identifier: Apache-2.0
"""How many batches make each update: steps to batches and back.

A position of a training is a number of updates (steps); rows are planned in batches.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Accumulation:
    """stages: tuple of (step, count): from each step on, an update takes `count` batches.

    Steps count from 0, where the first stage begins, and increase.
    """

    stages: tuple[tuple[int, int], ...]

    @property
    def is_single(self):
        """Whether every update is of one batch."""
        return self.stages == ((0, 1),)

    @property
    def is_constant(self):
        return len(self.stages) == 1

    def at(self, step):
        """Returns the number of batches of the update that `step` others come before."""
        return next(count for start, count in reversed(self.stages) if start <= step)

    def batches(self, step):
        """Returns how many batches the first `step` updates take."""
        ends = [start for start, _ in self.stages[1:]] + [step]
        parts = zip(self.stages, ends, strict=True)
        return sum(max(0, min(end, step) - start) * count for (start, count), end in parts)

    def steps(self, num_batches):
        """Returns how many updates so many batches make, float: the last may be a part of one."""
        for start, count in reversed(self.stages):
            before = self.batches(start)
            if num_batches >= before:
                return start + (num_batches - before) / count
        raise ValueError(f"{num_batches} batches")

    def whole_steps(self, first_step, num_batches):
        """Returns the step that is reached from first_step with num_batches more: int."""
        return int(self.steps(self.batches(first_step) + num_batches))

    def __str__(self):
        counts = [count for _, count in self.stages]
        least, most = min(counts), max(counts)
        return str(least) if least == most else f"{least} to {most}"
