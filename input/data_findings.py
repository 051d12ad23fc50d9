# SPDX-License-Identifier: Apache-2.0
"""What of a data report somebody should know or mend before training: a sentence each."""

from common.console import counted

FEW_ROWS = 10  # of a class
MUCH_CUT = 0.05  # share of rows
MUCH_UNKNOWN = 0.02  # share of tokens, as in `WordPieceTokenizer.notes_on_case`
UNBALANCED = 0.8  # share of the largest class
MUCH_LONGER = 1.2  # of a pass over the rows
ALWAYS_ODD = ("control", "replacement", "mojibake", "markup", "decomposed")


def findings_of(content):
    """Returns the findings of a report, problems first: list of {"is_problem", "text"}.

    content: of `report_on_data`, without them.
    """
    found = []
    for name, split in content["splits"].items():
        found += _of_split(name, split, content["task"])
    train = next(iter(content["splits"].values()))["labels"] or {}
    for name, split in list(content["splits"].items())[1:]:
        absent = [label for label, count in (split["labels"] or {}).items() if not count]
        absent = [label for label in absent if train.get(label)]
        if absent and len(absent) < len(train):
            text = f"{name} has no row of {_listed(absent)}: nothing shows how well they are learnt"
            found.append((True, text))
    for each in content["across"]:
        found += _of_splits(each)
    found += [(True, note) for note in content["vocabulary"]["notes"]]
    found += _of_length(content["max_sequence_length"], content["splits"])
    found.sort(key=lambda finding: not finding[0])
    return [{"is_problem": is_problem, "text": text} for is_problem, text in found]


def _of_split(name, split, task):
    rows = split["rows"]
    if split["num_skipped"]:
        number = counted(split["num_skipped"], "row")
        yield (
            True,
            f"{name}: {number} cannot be used; training needs on_bad_row: skip, or corrections",
        )
    if split["labels"] and task == "classification":
        label, count = max(split["labels"].items(), key=lambda pair: pair[1])
        share = f"always answering {label} is right in {count / rows:.1%} of {name}"
        advice = "; accuracy says little, so watch macro F1, and try class_weights: balanced"
        is_unbalanced = count > UNBALANCED * rows
        yield is_unbalanced, share + advice * is_unbalanced
    if split["labels"] and task in ("classification", "multi_label"):
        few = [label for label, count in split["labels"].items() if 0 < count < FEW_ROWS]
        if few:
            yield True, f"{name} has fewer than {FEW_ROWS} rows of {_listed(few)}"
    if split["contradicting"]["texts"]:
        found = split["contradicting"]
        number = counted(found["texts"], "text")
        yield (
            True,
            f"{name}: {number} in {found['rows']:,} rows with different labels, so that no model "
            f"can be right in more than {found['ceiling']:.2%}",
        )
    if split["repeated"]["rows"]:
        number = counted(split["repeated"]["rows"], "row")
        repeat = "repeats" if split["repeated"]["rows"] == 1 else "repeat"
        share = split["repeated"]["rows"] / rows
        yield share > MUCH_CUT, f"{name}: {number} ({share:.1%}) {repeat} an earlier one"
    if split["near"]["texts"]:
        found, other = split["near"], split["near"]["other_label"]
        text = f"{name}: {counted(found['texts'], 'text')} nearly the same as an earlier one"
        yield False, text + f"; {counted(other, 'such pair')} with different labels" * bool(other)
    if split["empty"]:
        number = counted(split["empty"], "row")
        yield True, f"{name}: {number} without any token"
    if split["unknown"]["tokens"]:
        found = split["unknown"]
        yield (
            found["share"] > MUCH_UNKNOWN,
            f"{name}: {_percent(found['share'])} of the tokens are [UNK], in "
            f"{counted(found['rows'], 'row')}",
        )
    for kind, odd in split["characters"]["odd"].items():
        text = f"{name}: {counted(odd['rows'], 'row')} with {odd['meaning']}"
        yield kind in ALWAYS_ODD, text


def _of_splits(each):
    here, there = each["split"], each["other"]
    if each["rows"]:
        other = f", {each['other_label']:,} of them with another label" * bool(each["other_label"])
        yield (
            True,
            f"{counted(each['rows'], 'row')} of {here} ({each['share']:.1%}) also in {there}"
            f"{other}: figures on them show memory, not skill",
        )
    if each["near_rows"]:
        number = counted(each["near_rows"], "row")
        yield False, f"{number} of {here} nearly in {there}"
    for place, count in enumerate(each["shared_texts"]):
        if count > each["rows"]:
            which = ("first", "second")[place]
            yield False, f"{counted(count, 'row')} of {here} whose {which} text is in {there}, too"


def _of_length(lengths, splits):
    rows = {row["length"]: row for row in lengths["lengths"]}
    given, suggested = rows[lengths["given"]], rows[lengths["suggested"]]
    total = sum(split["rows"] for split in splits.values())
    share = sum(given["cut"].values()) / total
    what = "take several windows" if lengths["is_windowed"] else "are cut"
    if lengths["is_windowed"]:
        yield False, f"max_sequence_length {lengths['given']}: {share:.1%} of the texts {what}"
        return
    text = f"max_sequence_length {lengths['given']} cuts {share:.1%} of the rows"
    if lengths["suggested"] != lengths["given"]:
        cut = sum(suggested["cut"].values()) / total
        text += f"; {lengths['suggested']} would cut {cut:.1%}"
        if suggested["relative"] is not None:
            text += (
                f", and a pass over the training rows be {suggested['relative']:.2f} of the work"
            )
    yield share > MUCH_CUT, text


def _percent(share):
    return f"{share:.2%}" if share >= 0.0001 else "less than 0.01%"


def _listed(names, most=5):
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
