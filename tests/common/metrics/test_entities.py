# SPDX-License-Identifier: Apache-2.0
"""common/metrics/entities.py, against seqeval and conlleval (../shared/fixtures/ner_eval) and by
hand."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics.entities import (
    SCHEMES,
    EntityCounts,
    TagSet,
    commonest_confusions,
    encode,
    faults_of_tags,
    scheme_of,
    split_label,
)

CASES = (
    "iob2_valid",
    "iob2_invalid_predictions",
    "iob2_invalid_both",
    "iobes_valid",
    "iobes_invalid_predictions",
    "one_type",
    "absent_types",
)


def entities_of(sentences, scheme, rule="conlleval", tags=None):
    """Returns [(type, first, after last)] of each sentence."""
    names = sorted({label for labels in sentences for label in labels} | {"O"})
    tags = tags or TagSet(tuple(names), scheme)
    places = {name: place for place, name in enumerate(tags.label_names)}
    labels = np.array([places[label] for sentence in sentences for label in sentence], int)
    lengths = np.array([len(sentence) for sentence in sentences])
    starts = np.cumsum(lengths) - lengths
    found = [[] for _ in sentences]
    for first, end, kind in tags.entities(labels, lengths, rule).tolist():
        sentence = int(np.searchsorted(starts, first, side="right") - 1)
        offset = int(starts[sentence])
        found[sentence].append((tags.type_names[kind], first - offset, end - offset))
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("rule", "key"), [("conlleval", "default"), ("strict", "strict")])
def test_entities_and_figures_are_those_of_seqeval_and_conlleval(shared_dir, case, rule, key):
    folder = shared_dir / "fixtures" / "ner_eval"
    data = json.loads((folder / f"{case}.json").read_text("utf-8"))
    expected = json.loads((folder / f"{case}.expected.json").read_text("utf-8"))
    names = sorted({label for side in ("gold", "pred") for row in data[side] for label in row})
    tags = TagSet(tuple(names), data["scheme"])
    spans, places = {}, {name: place for place, name in enumerate(names)}
    for side in ("gold", "pred"):
        found = entities_of(data[side], data["scheme"], rule, tags)
        listed = [[list(entity) for entity in sentence] for sentence in found]
        assert listed == expected[f"{side}_entities_{key}"]
        labels = np.array([places[label] for row in data[side] for label in row])
        spans[side] = tags.entities(labels, np.array([len(row) for row in data[side]]), rule)
    counts = EntityCounts.of(spans["gold"], spans["pred"], tags.type_names)
    report = expected[f"seqeval_{key}"]
    ours = {each.pop("type"): each for each in counts.per_type()} | {"micro avg": counts.overall()}
    assert len(ours) == len(report) - 2  # but the macro and the weighted mean
    for kind, figures in ours.items():
        theirs = report[kind]
        assert figures["support"] == theirs["support"]
        for name in ("precision", "recall", "f1"):
            assert figures[name] == pytest.approx(theirs[name.replace("f1", "f1-score")], abs=1e-12)
    if rule == "conlleval":
        overall = expected["conlleval"]["overall"]
        assert counts.true.sum() == overall["gold"]
        assert counts.predicted.sum() == overall["pred"]
        assert counts.hits.sum() == overall["correct"]
        for place, kind in enumerate(tags.type_names):
            by_type = expected["conlleval"]["by_type"][kind]
            triple = counts.true[place], counts.predicted[place], counts.hits[place]
            assert triple == (by_type["gold"], by_type["pred"], by_type["correct"])


def test_figures_of_nothing_are_zero(shared_dir):
    cases = json.loads((shared_dir / "fixtures/ner_eval/zero_cases.json").read_text("utf-8"))
    tags = TagSet(("O", "B-X", "I-X"))
    for case in cases.values():
        sides = [
            tags.entities(
                np.array([tags.label_names.index(label) for row in case[side] for label in row]),
                np.array([len(row) for row in case[side]]),
            )
            for side in ("gold", "pred")
        ]
        overall = EntityCounts.of(*sides, tags.type_names).overall()
        assert {name: overall[name] for name in ("precision", "recall", "f1")} == {
            name: case[name] for name in ("precision", "recall", "f1")
        }


def test_a_type_begins_after_the_first_hyphen():
    assert split_label("B-creative-work") == ("B", "creative-work")
    assert split_label("O") == ("O", "")
    assert split_label("I") == ("I", "")  # data with one type may leave it out
    assert [split_label(label) for label in ("NN", "O-x", "", "X-per", "b-per")] == [None] * 5


@pytest.mark.parametrize(
    ("scheme", "labels", "conlleval", "strict"),
    [
        # IOB1: B only parts an entity from one of its type; elsewhere it breaks the scheme.
        ("IOB1", "I-a I-a B-a I-b O I-b", "a02 a23 b34 b56", "a02 a23 b34 b56"),
        ("IOB1", "O B-a I-a", "a13", ""),
        ("IOB2", "I-a I-a O B-a I-b", "a02 a34 b45", "a34"),
        ("IOB2", "B-a I-a B-a O", "a02 a23", "a02 a23"),
        ("IOBES", "B-a I-a E-a S-a S-a", "a03 a34 a45", "a03 a34 a45"),
        ("IOBES", "B-a I-a O E-a S-b", "a02 a34 b45", "b45"),
    ],
)
def test_rules_by_hand(scheme, labels, conlleval, strict):
    for rule, expected in (("conlleval", conlleval), ("strict", strict)):
        found = entities_of([labels.split()], scheme, rule)[0]
        assert " ".join(f"{kind}{first}{end}" for kind, first, end in found) == expected


def test_an_entity_ends_with_its_sentence_also_an_empty_one():
    assert entities_of([["B-a"], [], ["I-a", "O"]], "IOB2") == [[("a", 0, 1)], [], [("a", 0, 1)]]


spans_of_words = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from(["", "a", "b-c"])), max_size=5
)


@given(st.lists(spans_of_words, min_size=1, max_size=4), st.sampled_from(SCHEMES))
def test_reading_what_was_encoded_gives_the_same_entities_under_both_rules(drawn, scheme):
    sentences, expected = [], []
    for gaps in drawn:
        place, spans = 0, []
        for gap, length, kind in gaps:
            spans.append((place + gap, place + gap + length, kind))
            place += gap + length
        labels = encode(spans, place + 1, scheme)
        assert not faults_of_tags(labels, scheme)
        sentences.append(labels)
        expected.append([(kind, start, end) for start, end, kind in spans])
    for rule in ("conlleval", "strict"):
        assert entities_of(sentences, scheme, rule) == expected


TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in "ab")]


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_the_rules_agree_exactly_where_no_label_is_at_fault(labels):
    for scheme in SCHEMES:
        if scheme != "IOBES" and any(label[0] in "ES" for label in labels):
            continue
        rules = [entities_of([labels], scheme, rule)[0] for rule in ("conlleval", "strict")]
        if not faults_of_tags(labels, scheme):
            assert rules[0] == rules[1]


def test_the_scheme_is_recognised():
    assert scheme_of([["O", "B-a", "I-a"]]) == "IOB2"
    assert scheme_of([["O", "I-a", "I-a"], ["I-a", "B-a"]]) == "IOB1"
    assert scheme_of([["O", "S-a"], ["B-a", "E-a"]]) == "IOBES"
    assert scheme_of([["NN", "VB"]]) is None
    assert scheme_of([["O", "O"]]) == "IOB2"


def test_labels_that_are_no_tags_of_the_scheme_are_refused():
    with pytest.raises(ValueError, match="E-a is no label of IOB2"):
        TagSet(("O", "E-a"))


def test_confusions_come_the_commonest_first():
    true, predicted = np.array([0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 2, 0])
    assert commonest_confusions(true, predicted, ("O", "B-x", "I-x")) == [
        {"true": "B-x", "predicted": "O", "count": 2},
        {"true": "I-x", "predicted": "O", "count": 1},
        {"true": "I-x", "predicted": "B-x", "count": 1},
    ]


def test_order_of_sentences_does_not_matter():
    rng = random.Random(1)
    names = ["O", "B-a", "I-a", "B-b", "I-b"]
    rows = [[rng.choice(names) for _ in range(rng.randint(0, 9))] for _ in range(30)]
    together = entities_of(rows, "IOB2")
    assert together == [entities_of([row], "IOB2")[0] for row in rows]
