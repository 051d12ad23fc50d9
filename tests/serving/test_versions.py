# SPDX-License-Identifier: Apache-2.0
"""Versions that are broken and aliases that stand for none: what answers, and what is said."""

import threading

import pytest

from common.checkpoints.versions import resolve
from common.errors import UserError
from serving.sources import Source
from tests.reference.toy_serving import ToyEngine, toy_model

pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """models(path) -> Models of registry/films, or of films@ALIAS beside it. A version whose folder
    holds `damaged` fails in the library that reads it, one with `fails` when it is warmed up."""
    from common.params.serving import serving_params
    from serving import models
    from serving.figures import Figures

    def load(version):
        if (version.folder / "damaged").exists():
            raise RuntimeError("no graph")
        engine = ToyEngine()
        if (version.folder / "fails").exists():
            engine.run = lambda features: 1 / 0
        return toy_model(engine)

    monkeypatch.setattr(models, "load_version", load)
    made, before = [], threading.active_count()

    def make(name="films"):
        source = Source("films", str(tmp_path / "registry" / name))
        made.append(models.Models([source], serving_params({}), Figures()))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert threading.active_count() == before  # also of versions that failed


@pytest.fixture
def add(tmp_path):
    def add(number, *files):
        folder = tmp_path / "registry" / "films" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            (folder / name).write_text('{"format": "onnx"}')
        return folder

    return add


def test_the_version_before_a_broken_one_answers_from_the_start(models, add, capsys):
    add(1, "export.json")
    add(2, "export.json", "fails")
    add(3, "export.json", "damaged")
    folder = add(4)
    served = models()
    served.check()
    served.load()
    model = served["films"]
    assert (model.newest, list(model.served)) == (1, [1])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    for number, line in zip((4, 3, 2), told, strict=True):
        start = f"model films stays at version 1: version {number} of model films cannot be served"
        assert line.startswith(start) and line.endswith("; mend it, or delete its folder")
    assert f"{folder} holds neither params.yaml nor export.json" in told[0]
    assert "engine onnx (no graph)" in told[1]
    served.refresh()
    assert not capsys.readouterr().err  # it is said once
    add(4, "export.json")
    served.refresh()
    assert model.newest == 4 and "is at version 4 now" in capsys.readouterr().err


def test_a_model_without_a_sound_version_is_refused_with_the_newest_one(models, add):
    add(1)
    folder = add(2)
    told = rf"version 2 of model films cannot be served: {folder} holds neither"
    with pytest.raises(UserError, match=told):
        models().check()
    with pytest.raises(UserError, match=told):
        models("films@2").check()
    add(2, "export.json", "damaged")
    models().check()
    with pytest.raises(UserError, match=r"version 2 of model films cannot be served: .*no graph"):
        models().load()


def test_an_alias_without_its_version_is_told_with_its_file(models, add, tmp_path, capsys):
    from serving.models import NotFound

    file = add(2, "export.json").parent / "champion"
    file.write_text("7\n")
    told = "alias champion stands for version 7, which is not there; write the number of one that "
    told += f"is into {file}"
    with pytest.raises(UserError) as caught:
        models("films@champion").check()
    assert str(caught.value) == f"films@champion: {told}; {file.parent} has the versions 2"
    with pytest.raises(UserError, match=r"has the versions 2 and the aliases champion$"):
        resolve(tmp_path / "registry", "films@best")
    served = models()
    served.load()
    assert capsys.readouterr().err == f"model films: {told}\n"
    served.refresh()
    assert not capsys.readouterr().err
    with (
        pytest.raises(NotFound, match=r"'champion' of version 7, which is not served"),
        served.borrow("films", label="champion"),
    ):
        pass
    file.write_text("2\n")
    served.refresh()
    with served.borrow("films", label="champion") as found:
        assert found.number == 2


def test_a_champion_that_is_broken_leaves_the_others_answering(models, add, capsys):
    from serving.models import NotFound

    add(1, "export.json", "damaged").parent.joinpath("champion").write_text("1")
    add(2, "export.json")
    served = models()
    served.load()
    assert "stays at version 2: version 1 of model films" in capsys.readouterr().err
    with (
        pytest.raises(NotFound, match=r"'champion' of version 1, which is not served"),
        served.borrow("films", label="champion"),
    ):
        pass
