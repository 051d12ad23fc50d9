# SPDX-License-Identifier: Apache-2.0
"""Text for the user: lines on the standard error stream, aligned summaries, durations in words."""

import contextlib
import contextvars
import sys

# What gets the lines of `log` in place of the standard error stream, in one thread or task.
_sink = contextvars.ContextVar("sink", default=None)


def escape_unencodable():
    """Lets a terminal or file that cannot encode a character have its escape: PYTHONIOENCODING."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # no stream of a test
            stream.reconfigure(errors="backslashreplace")


def log(text, stream=None):
    """Prints lines of text and flushes. stream: text file; None is the standard error stream."""
    sink = _sink.get()
    if stream is None and sink is not None:
        sink(text)
    else:
        print(text, file=stream or sys.stderr, flush=True)


@contextlib.contextmanager
def logging_to(sink):
    """While open, `sink` is called with the text of each `log`. None: they are printed as ever."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


def closing_summary(items):
    """Returns (name, value) pairs of str as aligned lines, names left, values in one column."""
    width = max((len(name) for name, _ in items), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in items)


def in_one_cell(text):
    """A text without what would end its cell or its line in a table: tabs and line ends."""
    return " ".join(text.replace("\0", " ").split())


def counted(number, noun, plural=None):
    """Returns "1 row", "1,234 rows"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def format_duration(seconds):
    """Returns a rounded duration in words: "42 s", "14 min", "2 h 05 min"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
