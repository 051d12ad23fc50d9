# SPDX-License-Identifier: Apache-2.0
"""Our own checkpoint: the network of `model.py`, in the precision of its params."""

from common.console import logging_to
from common.errors import UserError
from common.export.decoder import settings_of
from common.params.pretraining import REPLACED_TOKENS
from common.platform.quiet_imports import import_once_quietly
from serving.engines.loaded import Loaded
from utils import SAVED, get_params


def load(folder):
    """Returns Loaded of a model_dir. Raises UserError where it has no checkpoint to use.

    folder: Path.
    """
    import_once_quietly()
    import tensorflow as tf

    from common.training.inference import Inference
    from session import open_session

    changes = {"runconfig.mode": "predict", "runconfig.model_dir": str(folder)}
    with logging_to(lambda text: None):
        params = get_params(folder / SAVED, changes)
        # A text, so that the label names are the checkpoint's and no data are needed.
        session = open_session(params, str(folder / SAVED), texts=["-"])
        if session.params.model.pretraining_objective == REPLACED_TOKENS:
            raise UserError(
                f"{folder} tells which tokens were replaced, for which no protocol of the server "
                "has an answer; use --mode predict"
            )
        model = session.new_model()
        inference = Inference(session, model)
        inference.load(session.checkpoint)
    model.fold_calibration()
    data = session.params.predict_input
    settings = {**settings_of(model, data), **model.checkpoint_config()}
    settings["max_position_embeddings"] = session.params.model.max_position_embeddings
    texts_per_row = session.data.get_text_features(session.params).texts_per_row
    return Loaded(
        settings,
        session.vocab,
        ("text",) if texts_per_row == 1 else ("text_a", "text_b"),
        NetworkEngine(tf, inference, needs_positions=session.params.task == "pretraining"),
        step=session.checkpoint.config.get("step"),
        session=session,
        model=model,
    )


class NetworkEngine:
    """One program for rows of any number and length: a server meets too many shapes to compile.

    tf: TensorFlow. inference: Inference with weights.
    """

    max_rows, num_streams = None, 1

    def __init__(self, tf, inference, needs_positions):
        names = ["input_ids", "input_mask", "segment_ids"]
        names += ["masked_lm_positions"] if needs_positions else []
        self.names, kernels = names, inference.kernels()

        @tf.function(autograph=False)
        def outputs_of(features):
            return inference.outputs_of(features, kernels)

        specs = {name: tf.TensorSpec([None, None], tf.int32, name) for name in names}
        self._program = outputs_of.get_concrete_function(specs)
        self._constant = tf.constant

    def run(self, features):
        outputs = self._program({name: self._constant(features[name]) for name in self.names})
        return {name: output.numpy() for name, output in outputs.items()}
