# SPDX-License-Identifier: Apache-2.0
"""What the server is told: the flags of `--mode serve`, and the keywords of `serve` in Python."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from common.errors import UserError
from common.params.values import Count, CourseKey, Path, Positive, Section, to_int
from common.params.yaml_faults import describe, validate

OF_CHECKPOINT = ("auto", "checkpoint")  # in a prediction; a server may find an export
ENGINES = (*OF_CHECKPOINT, "saved_model", "onnx", "onnx_int8", "openvino")
Port = Annotated[int, Field(ge=0, le=65_535), BeforeValidator(to_int)]


class ServingParams(Section):
    """How models are served."""

    engine: Literal[ENGINES] = CourseKey(
        "auto",
        "What computes: our own `checkpoint`, or an export: `saved_model`, `onnx` in float32, "
        "`onnx_int8`, or `openvino` with the file of `onnx`. `auto`: what the path of a model is.",
    )
    host: str = CourseKey(
        "127.0.0.1", "Address to listen on; 0.0.0.0: all of this machine.", min_length=1
    )
    port: Port = CourseKey(8501, "Port to listen on; 0: any that is free.")
    token_file: Path | None = CourseKey(
        None,
        "File with a secret of one line, which requests have to bring as "
        "`Authorization: Bearer SECRET`.",
    )
    max_client_batch_size: Count = CourseKey(128, "Texts of a request, at most.")
    max_body_bytes: Count = CourseKey(2_000_000, "Bytes of a request, at most.")
    max_batch_tokens: Count = CourseKey(
        4096, "Tokens that are computed together, with padding, at most."
    )
    max_queue: Count = CourseKey(
        1024, "Rows that may wait. Requests beyond them are told to come again."
    )
    request_timeout: Positive = CourseKey(
        30.0, "Seconds in which a request has to arrive, and those in which it is answered."
    )
    drain_seconds: Positive = CourseKey(
        30.0, "Seconds after a signal in which the requests that have arrived are answered."
    )
    watch_seconds: Positive = CourseKey(
        2.0, "Seconds between two looks for a new version of a model."
    )


class ServingFile(Section):
    serving: ServingParams = CourseKey(ServingParams(), "How models are served.")


def serving_params(given):
    """Returns ServingParams. given: {key: value} of flags or keywords.

    Raises UserError with all faults.
    """
    file, faults = validate({"serving": given}, ServingFile)
    if faults:
        raise UserError(describe("what the server is told", faults, {}))
    return file.serving
