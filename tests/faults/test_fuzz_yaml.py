# SPDX-License-Identifier: Apache-2.0
"""The short form of `fuzz_yaml.py`."""

from tests.faults.fuzz_yaml import DAMAGES, answer, corpus, fuzz


def test_damaged_files_are_accepted_or_refused_in_words(tmp_path):
    counts, failures, _ = fuzz(500, seed=3, folder=tmp_path)
    assert not failures, failures[0][-1]
    # Every damage leaves some files that are refused, and all of them together some that are not.
    for damage in DAMAGES:
        assert counts[f"{damage.__name__}: refused"] > 0
    assert sum(count for name, count in counts.items() if name.endswith("accepted")) > 20


def test_what_is_damaged_was_right(tmp_path):
    for text in set(corpus()):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        assert answer(path, None) == "accepted"


def test_the_fuzzer_tells_of_an_exception_and_of_a_file_that_takes_long(tmp_path, monkeypatch):
    def broken(path, overrides=None, on_warning=None):
        if b"mnli" in path.read_bytes().lower():
            raise KeyError("model")
        while True:
            pass

    monkeypatch.setattr("tests.faults.fuzz_yaml.get_params", broken)
    monkeypatch.setattr("tests.faults.fuzz_yaml.MAX_SECONDS", 0.05)
    counts, failures, _ = fuzz(10, seed=0, folder=tmp_path)
    # A flag that cannot be read is refused before the file is.
    assert counts.keys() <= {"damage_overrides: refused"}
    told = "".join(text for _, _, text in failures)
    assert "KeyError: 'model'" in told
    assert "TooSlow: no answer after 0.05 s" in told
