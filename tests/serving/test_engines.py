# SPDX-License-Identifier: Apache-2.0
"""Each engine gives the network's own answers, for every task that it can hold."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.errors import UserError
from serving.models import Served
from serving.sources import Source, find_versions, load_version
from tests.reference.toy_serving import Client, until
from tests.reference.toy_vocabularies import NETWORKS, VOCABULARIES

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["never once dull", "", "It was CAF\u00c9, bad! [SEP] dragged \u4e2d", "once never " * 9]
PAIRS = [(a, b) for a in TEXTS for b in reversed(TEXTS)]


@pytest.fixture
def settings():
    from common.params.serving import serving_params

    return serving_params({"max_batch_tokens": 64})


def test_an_export_that_answers_for_every_token_is_refused(tmp_path):
    rows = {"task": "pretraining", "texts": ["text"]}
    manifest = {"format": "onnx", "label_names": [], "rows": rows}
    (tmp_path / "export.json").write_text(json.dumps(manifest), "utf-8")
    (version,) = find_versions(Source("m", str(tmp_path), "auto")).values()
    with pytest.raises(UserError, match=r"export of task: pretraining, .* reads its checkpoint"):
        load_version(version)


def open_served(path, settings, engine="auto"):
    ((number, version),) = find_versions(Source("m", str(path), engine)).items()
    served = Served("m", version, load_version(version), settings, None)
    assert number == version.number
    served.warm_up()
    return served


def answers_of(served, texts):
    """What a server would say, without HTTP."""
    reader, found = served.reader, []
    for text in texts:
        prepared = reader.prepare(text if isinstance(text, tuple) else (text,))
        of_rows = [served.run([row]) for row in prepared.rows]
        outputs = {name: [each[name][0] for each in of_rows] for name in of_rows[0]}
        found.append(reader.answer(prepared, outputs))
    served.batcher.close()
    return found


def outputs_of(classifier, texts):
    """What the network says of texts, by the tokenizer in its graph. {name: array}."""
    import tensorflow as tf

    rows = [text if isinstance(text, tuple) else (text,) for text in texts]
    features = classifier.text_features(tf.constant(rows))
    outputs = classifier.model.build_model(features, "predict")
    return {k: v.numpy() for k, v in classifier.model.export_outputs(outputs).items()}


@pytest.mark.parametrize("format", ["onnx", "saved_model"])
@pytest.mark.parametrize(
    ("task", "num_classes", "texts_per_row", "kind"),
    [
        ("classification", 5, 2, None),
        ("multi_label", 5, 1, None),
        ("regression", 1, 1, None),
        ("classification", 5, 2, "byte_bpe"),
        ("classification", 5, 2, "unigram"),
    ],
)
def test_an_export_answers_for_rows(
    format,
    task,
    num_classes,
    texts_per_row,
    kind,
    make_classifier,
    settings,
    tmp_path,
):
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    from common.export.export import export

    network = {} if kind is None else {**NETWORKS[kind], "vocab": VOCABULARIES[kind]()}
    classifier = make_classifier(texts_per_row, num_classes, task=task, **network)
    export(format, classifier, tmp_path / "export")
    texts = TEXTS if texts_per_row == 1 else PAIRS
    served = open_served(tmp_path / "export", settings)
    assert served.version.engine == format and served.number == 1234
    found, expected = answers_of(served, texts), outputs_of(classifier, texts)
    for name in classifier.answer.served:
        ours = [each[name] for each in found]
        if expected[name].dtype == object:
            decoded = np.vectorize(bytes.decode)(expected[name]).tolist()
            assert ours == decoded
        else:
            np.testing.assert_allclose(np.array(ours), expected[name], rtol=0, atol=1e-5)
    assert {each.name for each in served.reader.outputs} == set(found[0])


def test_openvino_reads_the_same_file(make_classifier, settings, tmp_path):
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    from common.export.export import export

    classifier = make_classifier()
    export("onnx", classifier, tmp_path / "export")
    found = answers_of(open_served(tmp_path / "export", settings, "openvino"), TEXTS)
    expected = outputs_of(classifier, TEXTS)["probabilities"]
    ours = np.array([each["probabilities"] for each in found])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0.02)  # it may compute in bfloat16


def test_int8_is_computed_row_by_row(make_classifier, settings, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    from common.export.export import export

    export("onnx", make_classifier(quantize="int8"), tmp_path / "export")
    served = open_served(tmp_path / "export", settings, "onnx_int8")
    assert served.batcher.max_rows == 1
    served.batcher.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Classifier after some steps."""
    from api import Classifier
    from tests.test_api import KEYS, LABELS, SEED, TEXTS, weights

    folder = weights.__wrapped__(tmp_path_factory)
    # In float32: in 16 bits the rows beside one change its last bits.
    clf = Classifier(folder, overrides=SEED | {"model.mixed_precision": False})
    return clf.fit(TEXTS, LABELS, model_dir=tmp_path_factory.mktemp("run") / "run", **KEYS)


def test_a_checkpoint_answers_as_in_python(trained, settings):
    texts = ["a good day", "bad " * 30, ""]
    served = open_served(trained.result_.model_dir, settings)
    found = [each["probabilities"] for each in answers_of(served, texts)]
    np.testing.assert_allclose(found, trained.predict_proba(texts), rtol=0, atol=1e-6)
    assert served.version.engine == "checkpoint"
    assert (Path(trained.result_.model_dir) / f"checkpoint-{served.number}").is_dir()


def masked_words(folder):
    """A model_dir of some steps of pre-training, and the flags of its runs."""
    import run

    words = ["a", "an", "and", "dull", "fine", "film", "good", "bad", "plot", "joy", "dread"]
    sentences = [" ".join(words[n % 9 : n % 9 + 5]) for n in range(60)]
    (folder / "train.txt").write_text("\n\n".join(sentences))
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in vocab))
    values = {
        "train_input": {
            "data_processor": "DocumentDataProcessor",
            "train_documents": str(folder / "train.txt"),
            "eval_documents": str(folder / "train.txt"),
            "sentence_pairs": "none",
            "cache_dir": str(folder / "cache"),
            "vocab_file": str(folder / "vocab.txt"),
            "max_sequence_length": 12,
            "batch_size": 4,
        },
        "model": {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_heads": 2,
            "filter_size": 16,
            "max_position_embeddings": 12,
            "disable_nsp": True,
            "mixed_precision": False,
        },
        "optimizer": {"learning_rate": 0.02},
        "runconfig": {"max_steps": 10, "save_checkpoints_steps": 10, "tf_random_seed": 1},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    flags = ["--params", str(folder / "params.yaml"), "--model_dir", str(folder / "model_dir")]
    assert run.main(["--mode", "train", *flags]) == 0
    return folder / "model_dir", flags


def predicted(flags, texts, capsys):
    """What --mode predict says of texts, list of dict."""
    import run

    given = [part for text in texts for part in ("--text", text)]
    capsys.readouterr()
    assert run.main(["--mode", "predict", "--json", *flags, *given]) == 0
    return json.loads(capsys.readouterr().out)["predictions"]


def test_a_checkpoint_fills_in_masked_words_as_predict_does(tmp_path, settings, capsys):
    model_dir, flags = masked_words(tmp_path)
    texts = ["a [MASK] film", "[MASK] and [MASK]", "bad " * 8 + "[MASK]"]
    expected = predicted(flags, texts, capsys)
    found = answers_of(open_served(model_dir, settings), texts)
    for answer, record in zip(found, expected, strict=True):
        listed = [record[f"mask_{n + 1}"].split() for n in range(len(answer["masks"]))]
        for words, pairs in zip(answer["masks"], listed, strict=True):
            assert [each["word"] for each in words] == [pair.split(":")[0] for pair in pairs]
            scores = [float(pair.split(":")[1]) for pair in pairs]
            assert [each["score"] for each in words] == pytest.approx(scores, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, *VOCABULARIES])
@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_a_checkpoint_answers_for_words_and_places_as_predict_does(
    task, kind, tmp_path, settings, capsys
):
    from tests.common.export.test_decoder import LONG, QUESTION, trained

    model_dir, flags = trained(tmp_path, task, kind)
    texts = [LONG, "a film and joy"]
    if task == "question_answering":
        texts = [f"{QUESTION}\t{text}" for text in texts]
    expected = predicted(flags, texts, capsys)
    served = open_served(model_dir, settings)
    found = answers_of(served, [tuple(text.split("\t")) for text in texts])
    for answer, record in zip(found, expected, strict=True):
        if task == "question_answering":
            assert answer["answer"] == record["answer"]
            places = [str(answer[name]) for name in ("start", "end")]
            assert [each.replace("-1", "") for each in places] == [record["start"], record["end"]]
        else:
            told = (
                f"{e['text']} ({e['label']} {e['start']}-{e['end']}" for e in answer["entities"]
            )
            said = re.sub(r" [\d.]+\)", "", record["entities"])
            assert "; ".join(told) == said


def test_the_shares_of_words_add_up_to_what_they_moved(trained, settings):
    """The axiom of completeness; Sundararajan et al. 2017, section 3."""
    from serving.explain import by_gradients

    served = open_served(trained.result_.model_dir, settings)
    attribution, reader = served.attribution(), served.reader
    for text in ("a good day", "bad bad a day", "good"):
        ((ids, _),) = reader.prepare((text,)).rows
        features = reader.features([(ids, len(ids))])
        is_text = np.array([[place is not None for place in reader.places((text,))]])
        shares, answer, baseline = attribution(features, is_text, 1)
        assert answer == pytest.approx(trained.predict_proba([text])[0, 1], abs=1e-6)
        padding = [reader.pad if of_text else i for i, of_text in zip(ids, is_text[0], strict=True)]
        logits = served.run([(padding, len(ids))])["logits"][0]
        assert baseline == pytest.approx(1 / (1 + np.exp(logits[0] - logits[1])), abs=1e-6)
        # float32, and the midpoint rule of 32 points
        assert shares.sum() == pytest.approx(answer - baseline, abs=2e-3)
        assert shares[0] == shares[-1] == 0.0
        weights = by_gradients(attribution, reader, (text,), 1)
        np.testing.assert_allclose(weights, shares[1:-1], rtol=0, atol=1e-6)  # a word, a token
    served.batcher.close()


def test_python_serves_what_it_trained(trained):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    with trained.serve(name="days", block=False, port=0) as running:
        client = Client(running.url)
        until(lambda: client("/readyz")[0] == 200)
        code, said = client("/v1/models/days:predict", {"instances": ["a good day"]})
    client.close()
    assert code == 200 and said["predictions"][0]["label"] == trained.predict(["a good day"])[0]


def line_with(process, text):
    """The next line of standard error with a text. Libraries may say something before, such as
    ONNX Runtime of a processor that it does not know."""
    return next(line for line in process.stderr if text in line)


def test_a_process_swaps_versions_and_drains_under_load(
    make_classifier,
    tmp_path,
):
    """Numbered versions and an alias, as the registry has them; a swap; SIGTERM; exit code 0."""
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    from common.export.export import export

    export("onnx", make_classifier(), tmp_path / "export")
    place = tmp_path / "registry" / "films"
    shutil.copytree(tmp_path / "export", place / "1")
    (place / "champion").write_text("1\n")
    flags = ["--mode", "serve", "--model", f"films={place}", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "run.py", *flags, "--watch_seconds", "0.1"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        url = re.search(r"http://\S+", line_with(process, "Listening at"))[0].rstrip(";")
        assert "films 1 (onnx)" in line_with(process, "Ready after")
        codes, versions = [], set()

        def ask():
            client = Client(url)
            body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}
            while True:
                try:
                    code, said = client("/v2/models/films/infer", body)
                except OSError:  # of a connection that is new, after the end
                    return
                codes.append(code)
                if code != 200:
                    return
                versions.add(said["model_version"])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: "1" in versions)
        shutil.copytree(tmp_path / "export", tmp_path / "registry" / "next")
        os.rename(tmp_path / "registry" / "next", place / "2")
        assert line_with(process, "model films is") == "model films is at version 2 now\n"
        client = Client(url)
        champion = "/v1/models/films/labels/champion:predict"
        assert client(champion, {"instances": ["never"]})[0] == 200
        (place / "3").mkdir()  # a version that is no model
        assert "films stays at version 2" in line_with(process, "model films")
        until(lambda: "2" in versions and codes.count(200) > 5)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        said = process.stderr.read()
        assert process.wait(60) == 0 and "every request that had arrived is answered" in said
        assert versions == {"1", "2"}
        assert set(codes) <= {200, 503}
    finally:
        process.kill()
        process.stderr.close()
        process.wait()
        Client.close_all()


def test_libraries_print_nothing_when_a_checkpoint_is_served(trained):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    flags = ["--mode", "serve", "--model_dir", str(trained.result_.model_dir), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "run.py", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("TF_")},
    )
    said = [process.stderr.readline()]
    while said[-1] and "Ready after" not in said[-1]:
        said.append(process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not out
    said += err.splitlines()
    assert [line.split()[0] for line in said] == ["Listening", "Ready", "Stopped;"], said


def test_a_damaged_export_is_told_in_a_sentence(make_classifier, tmp_path, capsys):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    import run
    from common.export.export import export

    export("onnx", make_classifier(), tmp_path / "export")
    (tmp_path / "export" / "model.onnx").write_bytes(b"no graph")
    flags = ["--mode", "serve", "--port", "0", "--model", f"m={tmp_path / 'export'}"]
    assert run.main(flags) == 2
    assert "cannot be read by engine onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "x"], "is not NAME=PATH"),
        (["--model", "a=.", "--model", "a=."], "names a twice"),
        (["--model", "a=nowhere"], "nowhere is no folder"),
        (["--model", "a=docs"], "holds neither params.yaml"),
        (["--model", "a=registry@champion"], "has no model 'registry'"),
        (["--port", "70000"], "serving.port: is '70000'; a number of at most 65535"),
        (["--params", "configs/params_bert_tiny.yaml"], "--params is not for --mode serve"),
        (["--num_epochs", "2"], "--num_epochs is not for --mode serve"),
        (["--json"], "a server has /metrics"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_a_sentence(flags, sentence, capsys):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    import run

    assert run.main(["--mode", "serve", "--model_dir", "nowhere", *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_flags_of_the_server_are_for_its_mode(capsys):
    import run

    flags = ["--params", "configs/params_bert_tiny.yaml", "--port", "1", "--model_dir", "x"]
    assert run.main(["--mode", "train", *flags]) == 2
    assert "--port is for --mode serve" in capsys.readouterr().err
    assert run.main(["--mode", "train", *flags[:2], "--model", "a=b", "--model_dir", "x"]) == 2
    assert "--model is for --mode serve" in capsys.readouterr().err


def test_the_page_of_documentation_has_every_flag_with_its_default():
    from common.params.serving import ServingParams

    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    for name, field in ServingParams.model_fields.items():
        default = field.default
        if isinstance(default, int | float):
            default = f"{default:,g}" if default < 1e6 else f"{default:,}"
            assert re.search(rf"`--{name}`[^|.;]*{re.escape(default)}", page) or name == "port", (
                name
            )
        assert f"`--{name}`" in page, name
