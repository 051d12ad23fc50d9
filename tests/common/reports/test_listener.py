# SPDX-License-Identifier: Apache-2.0
"""Which listener receives which event, in which order."""

import errno

import pytest

from common.errors import RunError
from common.reports.listener import Listener, Listeners

EVENTS = {
    "on_message": ("text",),
    "on_resume": (2, 1),
    "on_start": (0, 10, None),
    "on_step": (1, {"loss": 0.5}),
    "on_stop": (),
    "on_figures": ("train", 1, {"loss": 0.5}, None),
    "on_batch": ("eval", 0, 3),
    "on_evaluation": (1, {}),
    "on_save": (1, "checkpoint-1"),
    "on_end": (None,),
    "close": (),
}


def test_a_listener_may_ignore_every_event():
    assert {name for name in vars(Listener) if not name.startswith("_")} == set(EVENTS)
    for listener in (Listener(), Listeners(), Listeners([Listener()])):
        for name, arguments in EVENTS.items():
            assert getattr(listener, name)(*arguments) is None


def test_every_event_reaches_every_listener_in_order():
    class Recorder(Listener):
        pass

    def record(name):
        return lambda self, *args, **kwargs: seen.append((self, name, args, kwargs))

    for name in EVENTS:
        setattr(Recorder, name, record(name))
    seen, first, second = [], Recorder(), Recorder()
    for name, arguments in EVENTS.items():
        seen.clear()
        getattr(Listeners([first, second]), name)(*arguments)
        assert seen == [(first, name, arguments, {}), (second, name, arguments, {})]
    seen.clear()
    Listeners([first]).on_evaluation(1, report={})
    assert seen == [(first, "on_evaluation", (1,), {"report": {}})]


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "read-only"), RunError("read-only")])
def test_a_listener_that_cannot_write_ends_training_and_not_what_outlasts_it(error):
    class Full(Listener):
        def on_figures(self, split, step, values, histograms=None):
            raise error

    class Shows(Listener):
        def on_figures(self, split, step, values, histograms=None):
            shown.append(step)

    shown = []
    with pytest.raises(type(error)):
        Listeners([Full(), Shows()]).on_figures("train", 1, {})
    outlasting = Listeners([Full(), Shows()], outlasts=True)
    for step in (2, 3):
        outlasting.on_figures("eval", step, {})
    assert shown == [2, 3] and outlasting.not_written == [str(error)]
