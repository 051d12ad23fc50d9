# SPDX-License-Identifier: Apache-2.0
"""Questions on texts: SQuAD's JSON, versions 1.1 and 2.0, and JSON Lines.

Only this project's own code and the standard library: a file is checked before TensorFlow is
imported.

    SQuAD       {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id": ...,
                "question": ..., "answers": [{"text": ..., "answer_start": 0}]}]}]}]}
    JSON Lines  {"question": ..., "context": ..., "answers": ...} a line; answers as in SQuAD, as
                data sets of Hugging Face have them ({"text": [...], "answer_start": [...]}), or
                texts alone, which are looked for in the context
"""

import io
import json
from dataclasses import dataclass

from common.errors import UserError
from common.files import utf8_text
from input.questions import Answer
from input.sources.text_files import FORMATS, RowFault


@dataclass(frozen=True)
class Question:
    """A question, its text and its right answers; none: there is no answer in the text."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    place: str  # in the file, for messages
    title: str = ""


@dataclass(frozen=True)
class Questions:
    """What a file holds."""

    rows: list[Question]
    faults: list[str]  # a sentence for each question that cannot be used
    misplaced: list[str]  # for each answer that does not stand at its answer_start
    pieces: dict | None = None  # {id: its tokens}, of records, which are tokenised already


def parse_squad(content, source, has_answers=True):
    """Parses a file of SQuAD's JSON. Returns Questions.

    Args:
        content: bytes.
        source: str, names the file in messages.
        has_answers: bool. False: answers are not asked for, and may be missing.
    Raises:
        UserError: it is no such file.
    """
    text = utf8_text(content, source)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise UserError(f'{source} is no file of SQuAD: {{"version": ..., "data": [...]}}')
    rows, faults, misplaced, seen = [], [], [], set()
    for number, article in enumerate(data["data"]):
        article = article if isinstance(article, dict) else {}
        title = str(article.get("title", ""))
        named = f"article {title}" if title else f"article {number}"
        for n, paragraph in enumerate(_list(article, "paragraphs")):
            paragraph = paragraph if isinstance(paragraph, dict) else {}
            for entry in _list(paragraph, "qas"):
                place = f"{source}, {named}, paragraph {n}"
                try:
                    row = _question(entry, paragraph.get("context"), place, title, has_answers)
                    if row.id in seen:
                        raise RowFault("has an id that an earlier question has")
                    rows.append(_placed(row, misplaced))
                    seen.add(row.id)
                except RowFault as fault:
                    faults.append(f"{_place(place, entry)}: {fault}")
    if not rows and not faults:
        raise UserError(f"{source} holds no questions")
    return Questions(rows, faults, misplaced)


def parse_question_lines(content, source, has_answers=True):
    """As `parse_squad`, of JSON Lines."""
    lines = io.StringIO(utf8_text(content, source), newline="\n")
    questions = questions_of(FORMATS[".jsonl"](lines, None), f"{source}, line", has_answers)
    if not questions.rows and not questions.faults:
        raise UserError(f"{source} is empty; an object a line is wanted")
    return questions


def questions_of(entries, place, has_answers=True):
    """Returns the Questions of objects, each with its own context.

    entries: iterable of (number, dict or RowFault). place: str, named before the number.
    """
    rows, faults, misplaced = [], [], []
    for number, entry in entries:
        try:
            if isinstance(entry, RowFault):
                raise entry
            entry = {"id": str(number), **entry}
            row = _question(entry, entry.get("context"), f"{place} {number}", "", has_answers)
            rows.append(_placed(row, misplaced))
        except RowFault as fault:
            faults.append(f"{place} {number}: {fault}")
    return Questions(rows, faults, misplaced)


def _list(parent, key):
    value = parent.get(key)
    return value if isinstance(value, list) else []


def _place(place, entry):
    named = isinstance(entry, dict) and isinstance(entry.get("id"), str | int)
    return f"{place}, question {entry['id']}" if named else place


def _question(entry, context, place, title, has_answers):
    """Returns the Question of an object. Raises RowFault."""
    if not isinstance(entry, dict):
        raise RowFault("is no object")
    texts = {"question": entry.get("question"), "context": context}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise RowFault(f"has no {key}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise RowFault(f"{key} is not UTF-8")
    if entry.get("id") is None:
        raise RowFault("has no id")
    answers = ()
    if has_answers and not entry.get("is_impossible"):
        if "answers" not in entry:
            raise RowFault("has no answers; an empty list says that there is none in the text")
        answers = _answers(entry["answers"], context)
    return Question(str(entry["id"]), *texts.values(), answers, _place(place, entry), title)


def _answers(value, context):
    """Returns a tuple of Answer, one for each different answer."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):  # lists beside each other, as data sets of Hugging Face have them
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise RowFault("answers has no lists text and answer_start of one length")
        value = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        raise RowFault("answers is no list")
    answers = []
    for each in value:
        each = {"text": each} if isinstance(each, str) else each
        text = each.get("text") if isinstance(each, dict) else None
        if not isinstance(text, str) or not text:
            raise RowFault("answers has one without a text")
        start = each.get("answer_start", context.find(text))
        if type(start) is not int or ("answer_start" not in each and start < 0):
            raise RowFault(f"answer {text!r} is not in the context, and has no answer_start")
        answers.append(Answer(text, start))
    return tuple(answers)


def _placed(row, misplaced):
    """The same Question, without answers that do not stand at their answer_start.

    Where a text stands elsewhere the nearest place is taken. Those that are found nowhere can be
    scored and not trained on; a sentence for each goes to `misplaced`.
    """
    answers = []
    for answer in row.answers:
        text, start = answer.text, answer.start
        if start < 0 or row.context[start : start + len(text)] != text:
            places = [p for p in range(len(row.context)) if row.context.startswith(text, p)]
            nearest = min(places, key=lambda place: abs(place - start), default=None)
            found = "is not in the context" if nearest is None else f"stands at {nearest}"
            misplaced.append(f"{row.place}: answer {text!r} is not at {start}, but {found}")
            start = -1 if nearest is None else nearest
        answers.append(Answer(text, start))
    return Question(row.id, row.question, row.context, tuple(answers), row.place, row.title)
