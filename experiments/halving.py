# SPDX-License-Identifier: Apache-2.0
"""`early_terminate`: of the combinations that have reached a rung the best 1/eta go on.

Rung k lies at step min_iter * eta**k, and a combination is there once each of its seeds has been
evaluated at or after that step. All are compared at once, so what is decided does not depend on
which process was the faster one (Jamieson and Talwalkar 2016, algorithm 1).
"""

import math


def figure_at(curve, step, is_done, maximizes):
    """Returns the best figure up to the first evaluation at or after a step; None before it.

    curve: {step: figure} of a run. is_done: a run that has ended has its best figure.
    """
    last = next((each for each in sorted(curve) if each >= step), None)
    if last is None and is_done:
        last = max(curve, default=None)
    if last is None:
        return None
    best = max if maximizes else min
    return best(value for each, value in curve.items() if each <= last)


class Halving:
    """Which combinations wait, go on and end.

    early: EarlyTerminate, or None: every combination trains to its end. journal: Journal, which
    has what former starts decided.
    """

    def __init__(self, early, maximizes, journal):
        self.early, self.maximizes, self.journal = early, maximizes, journal
        self.passed = {each["combination"]: each["rung"] for each in journal.of("rung")}
        self.dropped = {each["combination"] for each in journal.of("dropped")}

    def next_step(self, combination):
        """Returns the step of the next rung of a combination: int; None where there are none."""
        if self.early is None:
            return None
        return self.early.step(self.passed.get(combination, -1) + 1)

    def decide(self, figure_at):
        """Compares the combinations that wait at the same rung.

        figure_at: {combination: figure at its next rung}; None while it is on its way to it. A
        combination that has ended has its last figure.
        Returns [(combination, its place, of how many)] of those that end here.
        """
        ended = []
        rungs = {}
        for combination in figure_at.keys() - self.dropped:
            rungs.setdefault(self.passed.get(combination, -1) + 1, []).append(combination)
        for rung, members in sorted(rungs.items()):
            if any(figure_at[each] is None for each in members):
                break  # those of later rungs wait for these, too
            order = sorted(members, key=lambda each: (self._key(figure_at[each]), each))
            for place, each in enumerate(order):
                self.journal.add("rung", combination=each, rung=rung, figure=figure_at[each])
                self.passed[each] = rung
                if place >= self.early.num_promoted(len(order)):
                    self.journal.add("dropped", combination=each, rung=rung)
                    self.dropped.add(each)
                    ended.append((each, place + 1, len(order)))
        return ended

    def _key(self, figure):
        if math.isnan(figure):
            return math.inf
        return -figure if self.maximizes else figure
