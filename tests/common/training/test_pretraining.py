# SPDX-License-Identifier: Apache-2.0
"""Pre-training from the first step to its figures, on toy rows: exact resume, packing, streams."""

import numpy as np
import pytest

import data
from common.BaseModel import EVAL
from common.checkpoints import store
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from common.reports.listener import Listeners
from common.reports.progress import Console
from common.training.inference import Inference
from common.training.predictor import predict
from model import model_fn
from tests.reference import toy_session
from tests.reference.toy_pretraining import (
    DATA,
    OF_SESSION,
    VOCAB,
    make_params,
    train,
    train_in_parts,
)
from tests.reference.toy_session import bits_of, lines_of


def test_training_lowers_the_loss_and_reports_every_part_of_it(tmp_path):
    train(tmp_path, max_steps=60, save_summary_steps=20)
    first, *_, last = lines_of(tmp_path, "train")
    for line in (first, last):
        assert line["train/cost"] == pytest.approx(
            line["train/cost_cls"] + line["train/cost_masked_lm"], rel=1e-5
        )
    # The entropy of the rows' tokens, which are nearly uniform over 26.
    assert first["train/unigram"] == pytest.approx(np.log(26), abs=0.05)
    assert first["train/cost_masked_lm"] > 3.0  # of the first 20 steps
    assert last["train/cost_masked_lm"] < first["train/cost_masked_lm"] - 0.1


@pytest.mark.parametrize("packing", ["packed", pytest.param("none", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, packing):
    """22 rows of batches of 4: the third epoch, with other masks, begins at step 10."""
    values = {"max_steps": 12, "train_input": {"packing": packing}}
    train(tmp_path / "whole", **values)
    train_in_parts(tmp_path / "parts", 7, **values)
    whole, parts = (store.newest_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert bits_of(whole) == bits_of(parts)
    # Losses since the last line, of which 7 is not one, are continued, too.
    assert lines_of(tmp_path / "whole", "train")[-2:] == [
        line | {"time": other["time"]} | rates_of(other)
        for line, other in zip(
            lines_of(tmp_path / "parts", "train")[-2:],
            lines_of(tmp_path / "whole", "train")[-2:],
            strict=True,
        )
    ]


def rates_of(line):
    names = ("train/examples_per_second", "train/input_wait")
    return {name: line[name] for name in names if name in line}


def test_several_batches_to_an_update_report_the_mean_of_each_loss(tmp_path):
    """Without dropout, and weights that the first update has not changed yet."""
    still = {"model": {"dropout_rate": 0.0}, "save_summary_steps": 1}
    train(tmp_path / "two", max_steps=1, optimizer={"grad_accum_steps": 2}, **still)
    frozen = {"optimizer": {"learning_rate": 1e-30}, **still}
    train(tmp_path / "one", max_steps=2, **frozen)
    (line,), lines = (lines_of(tmp_path / name, "train") for name in ("two", "one"))
    for name in ("train/cost", "train/cost_cls", "train/cost_masked_lm"):
        assert line[name] == pytest.approx(np.mean([each[name] for each in lines]), rel=1e-5)


def test_a_packed_batch_has_the_loss_of_its_rows(tmp_path):
    losses = {}
    for packing in ("none", "packed"):
        values = {"train_input": {"packing": packing}, "model": {"dropout_rate": 0.0}}
        params = make_params(tmp_path, **values)
        session = toy_session.make_session(params, **OF_SESSION)
        model, losses[packing] = session.new_model(), []
        # One batch of all rows, whatever the order.
        params = params.model_copy(
            update={"train_input": params.train_input.model_copy(update={"batch_size": 22})}
        )
        for features, targets in DATA.train_input_fn(params, 0, 1):
            spec = model_fn(features, targets, EVAL, params, model)
            losses[packing] = [float(loss) for loss in spec.losses]
    np.testing.assert_allclose(losses["packed"], losses["none"], rtol=1e-5)


@pytest.mark.parametrize("num_streams", [1, 2])
def test_an_evaluation_is_that_of_every_row_once(tmp_path, num_streams):
    """Summed batch by batch; 10 rows in batches of 3, so that two are filler."""
    params = make_params(tmp_path, mode="eval", num_streams=num_streams)
    evaluator = toy_session.make_evaluator(params, **OF_SESSION)
    batches = DATA.eval_input_fn(params)
    figures, total = evaluator.score(batches)
    again, _ = evaluator.score(DATA.eval_input_fn(params))
    assert figures == again  # the masks are the same every time
    losses, right, next_losses, next_right = [], [], [], []
    for features, targets, weights in batches["validation"]:
        outputs = evaluator.model.build_model(features, EVAL)
        mlm, nsp = (np.asarray(outputs[name], np.float64) for name in ("mlm_logits", "nsp_logits"))
        ids, labels = targets["masked_lm_ids"].numpy(), targets["next_sentence_labels"].numpy()
        for row in np.flatnonzero(weights.numpy()):
            for place in np.flatnonzero(targets["masked_lm_weights"].numpy()[row]):
                logits, token = mlm[row, place], ids[row, place]
                losses.append(np.log(np.exp(logits).sum()) - logits[token])
                right.append(logits.argmax() == token)
            logits, label = nsp[row], labels[row]
            next_losses.append(np.log(np.exp(logits).sum()) - logits[label])
            next_right.append(logits.argmax() == label)
    assert len(total) == len(next_losses) == 10 and total.num_masked == len(losses)
    expected = {
        "loss": np.mean(losses) + np.mean(next_losses),
        "eval/accuracy_masked_lm": np.mean(right),
        "eval/mlm_perplexity": np.exp(np.mean(losses)),
        "eval/accuracy_cls": np.mean(next_right),
    }
    assert figures == pytest.approx(expected, rel=1e-5)


def test_the_best_checkpoint_is_that_of_the_least_perplexity(tmp_path):
    result = train(
        tmp_path,
        mode="train_and_eval",
        max_steps=30,
        save_checkpoints_steps=10,
        best_metric="eval/mlm_perplexity",
    )
    values = {line["step"]: line["eval/mlm_perplexity"] for line in lines_of(tmp_path, "eval")}
    assert set(values) == {10, 20, 30}
    best = open_checkpoint(result.best_checkpoint)
    assert best.config["step"] == min(values, key=values.get)
    assert best.config["task"] == "pretraining" and "label_names" not in best.config


@pytest.mark.slow
def test_streams_and_bfloat16_train_alike(tmp_path):
    """In bfloat16 the losses of the first steps are those of float32 but for rounding."""
    plain = {"max_steps": 3, "save_summary_steps": 1, "model": {"dropout_rate": 0.0}}
    train(tmp_path / "one", **plain)
    train(tmp_path / "two", num_streams=2, **plain)
    train(
        tmp_path / "half",
        **plain | {"model": {"dropout_rate": 0.0, "mixed_precision": "mixed_bfloat16"}},
    )
    one, two, half = (
        [line["train/cost"] for line in lines_of(tmp_path / name, "train")]
        for name in ("one", "two", "half")
    )
    np.testing.assert_allclose(two, one, rtol=1e-4)
    np.testing.assert_allclose(half, one, rtol=2e-2)


def test_prediction_fills_each_mask_with_the_best_five_words(tmp_path, capsys):
    """Rows of different length and number of masks, one without any, and one that is a pair."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    values = {"train_input": {"vocab_file": str(tmp_path / "vocab.txt")}}
    train(tmp_path, max_steps=1, **values)
    params = make_params(tmp_path, mode="predict", **values)
    texts = [
        ("word7 [MASK] word9 word10[MASK]", "word12"),
        ("word5", "word6"),
        ("[MASK]", "word20 word21 word22"),
    ]
    session = toy_session.make_session(
        params,
        **OF_SESSION | {"data": data},
        texts=texts,
        checkpoint=open_checkpoint(store.newest_checkpoint(tmp_path)),
    )
    inference = Inference(session, session.new_model(), Listeners([Console(1)]))
    result = predict(session, inference)
    assert "1 of 3 rows without [MASK]: nothing to fill in\n" in capsys.readouterr().err
    ids = [2, 7, 4, 9, 10, 4, 3, 12, 3]
    features = {
        "input_ids": np.array([ids], np.int32),
        "input_mask": np.zeros((1, 9), np.int32),
        "segment_ids": np.array([[0] * 7 + [1] * 2], np.int32),
        "masked_lm_positions": np.array([[2, 5]], np.int32),
    }
    logits = np.asarray(inference.model.build_model(features, EVAL)["mlm_logits"], np.float64)[0]
    first, second, third = result.predictions
    for n in range(2):
        p = np.exp(logits[n]) / np.exp(logits[n]).sum()
        best = np.argsort(-p)[:5]
        shown = [word.split(":") for word in first[f"mask_{n + 1}"].split(" ")]
        assert [word for word, _ in shown] == [VOCAB[i] for i in best]
        assert [float(each) for _, each in shown] == pytest.approx(p[best], abs=1e-4)
    assert (second["mask_1"], second["mask_2"], third["mask_2"]) == ("", "", "")
    assert third["mask_1"] and result.output[1] == "word5 | word6"
    assert result.output[0].endswith("\tword7 [MASK] word9 word10[MASK] | word12")
    table = (tmp_path / "predict" / "predictions_tf_0.tsv").read_text().splitlines()
    assert table[0] == "id\ttext_a\ttext_b\tmask_1\tmask_2" and len(table) == 4
    arrays = np.load(tmp_path / "predict" / "predictions_tf_0.npz")
    assert arrays["token_ids"].shape == (3, 2, 5)


def test_texts_without_a_mask_are_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    params = make_params(tmp_path, train_input={"vocab_file": str(tmp_path / "vocab.txt")})
    with pytest.raises(UserError, match=r"'word5' has no \[MASK\]; write \[MASK\] in the place"):
        data.predict_input_fn(params, [("word5",)])
    with pytest.raises(UserError, match="give some with --text or --input_file"):
        data.predict_input_fn(params, [])


def test_documents_are_described_without_their_folders(tmp_path):
    files = make_params(tmp_path, train_input={"train_documents": "a/b.txt"})
    assert data.describe(files.eval_input) == "documents in b.txt, none, sentence pairs: next"
    of_tfds = {"train_documents": None, "eval_documents": None, "dataset": "sample_glue/sst2"}
    params = make_params(tmp_path, train_input={**of_tfds, "data_dir": "none"})
    assert data.describe(params.eval_input) == "documents in sample_glue/sst2, sentence pairs: next"
