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
from dataclasses import dataclass, replace

from common.errors import UserError
from common.files import utf8_text
from input.questions import Answer
from input.sources.text_files import FORMATS, RowFault, check_utf8, shown


@dataclass(frozen=True)
class Question:
    """A question, its text and its right answers; none: there is no answer in the text."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None  # None: not known, of a question to predict
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
        has_answers: bool. False: answers may be missing, and no answer is a fault.
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
    found = questions_of(_entries(data["data"], source), has_answers)
    if not found.rows and not found.faults:
        raise UserError(f"{source} holds no questions")
    return found


def parse_question_lines(content, source, has_answers=True):
    """As `parse_squad`, of JSON Lines."""
    lines = io.StringIO(utf8_text(content, source), newline="\n")
    numbered = FORMATS[".jsonl"](lines, None)
    questions = questions_of(with_places(numbered, f"{source}, line"), has_answers)
    if not questions.rows and not questions.faults:
        raise UserError(f"{source} is empty; an object a line is wanted")
    return questions


def with_places(numbered, place):
    """Yields what `questions_of` takes, of objects that each have a context.

    numbered: iterable of (number, dict or RowFault). place: str, named before the number, which is
    the id of a question without one.
    """
    for number, entry in numbered:
        yield f"{place} {number}", "", str(number), entry


def questions_of(entries, has_answers=True):
    """Returns the Questions of objects, each with its own context.

    entries: iterable of (place, title, id of an object without one or None, dict or RowFault).
    has_answers: as of `parse_squad`.
    """
    rows, faults, misplaced, seen = [], [], [], set()
    for place, title, number, entry in entries:
        try:
            if isinstance(entry, RowFault):
                raise entry
            row = _question(entry, place, title, number, has_answers)
            if row.id in seen:
                raise RowFault("has an id that an earlier question has")
            rows.append(_placed(row, misplaced))
            seen.add(row.id)
        except RowFault as fault:
            faults.append(f"{_place(place, entry)}: {fault}")
    return Questions(rows, faults, misplaced)


def _entries(articles, source):
    """Yields what `questions_of` takes, of the articles of a file of SQuAD."""
    for number, article in enumerate(articles):
        title = article.get("title") if isinstance(article, dict) else None
        title = title if isinstance(title, str) else ""
        place = f"{source}, article {shown(title) or number}"
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield place, title, None, RowFault("has no list of paragraphs")
            continue
        for n, paragraph in enumerate(paragraphs):
            entries = paragraph.get("qas") if isinstance(paragraph, dict) else None
            of_paragraph = f"{place}, paragraph {n}"
            if not isinstance(entries, list):
                yield of_paragraph, title, None, RowFault("has no list of qas")
                continue
            context = {"context": paragraph.get("context")}
            for entry in entries:
                is_object = isinstance(entry, dict)
                entry = entry | context if is_object else RowFault("is no object")
                yield of_paragraph, title, None, entry


def _place(place, entry):
    named = isinstance(entry, dict) and isinstance(entry.get("id"), str | int)
    return f"{place}, question {shown(str(entry['id']))}" if named else place


def _question(entry, place, title, number, has_answers):
    """Returns the Question of an object. Raises RowFault."""
    texts = {key: entry.get(key) for key in ("question", "context")}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise RowFault(f"has no {key}")
        check_utf8(text, key)
    number = number if entry.get("id") is None else entry["id"]
    if type(number) not in (str, int):
        raise RowFault("has no id" if number is None else "has an id that is no text or number")
    check_utf8(str(number), "its id")
    try:
        answers = _answers_of(entry, texts["context"])
    except RowFault:
        if has_answers:
            raise
        answers = None
    return Question(str(number), *texts.values(), answers, _place(place, entry), title)


def _answers_of(entry, context):
    """Returns a tuple of Answer; empty: there is none in the context. Raises RowFault."""
    is_impossible = entry.get("is_impossible")
    if is_impossible not in (None, False, True):
        shown_value = shown(json.dumps(is_impossible))
        raise RowFault(f"has is_impossible {shown_value}; true or false is wanted")
    if is_impossible:
        return ()
    if "answers" not in entry:
        raise RowFault("has no answers; an empty list says that there is none in the text")
    value = entry["answers"]
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
        if not isinstance(text, str) or not text.strip():
            raise RowFault("answers has one without a text")
        check_utf8(text, "an answer")
        start = each.get("answer_start")
        if start is not None and type(start) is not int:
            what = f"has answer_start {shown(json.dumps(start))}; a whole number is wanted"
            raise RowFault(f"answer {shown(text)!r} {what}")
        if start is None and text not in context:
            raise RowFault(f"answer {shown(text)!r} is not in the context, and has no answer_start")
        answers.append(Answer(text, context.find(text) if start is None else start))
    return tuple(answers)


def _placed(row, misplaced):
    """The same Question, without answers that do not stand at their answer_start.

    Where a text stands elsewhere the nearest place is taken. Those that are found nowhere can be
    scored and not trained on; a sentence for each goes to `misplaced`.
    """
    answers = []
    for answer in row.answers or ():
        text, start = answer.text, answer.start
        if start < 0 or row.context[start : start + len(text)] != text:
            places = [p for p in range(len(row.context)) if row.context.startswith(text, p)]
            nearest = min(places, key=lambda place: abs(place - start), default=None)
            found = "is not in the context" if nearest is None else f"stands at {nearest}"
            told = f"answer {shown(text)!r} is not at {start}, but {found}"
            misplaced.append(f"{row.place}: {told}")
            start = -1 if nearest is None else nearest
        answers.append(Answer(text, start))
    return row if row.answers is None else replace(row, answers=tuple(answers))
