# SPDX-License-Identifier: Apache-2.0
"""BaseModel declares what the rest of the program asks of a model."""

import ast
from pathlib import Path

import keras

from common.BaseModel import BaseModel

PROJECT = Path(__file__).parents[2]
ROOMS = ("export", "optimizers", "platform", "reports", "training", "validate")
FILES = [PROJECT / "model.py", PROJECT / "common" / "checkpoints" / "load.py"]
FILES += [file for room in ROOMS for file in sorted((PROJECT / "common" / room).rglob("*.py"))]


def attributes_of_models(source):
    """Names of the attributes that a file reads from `model` and `self.model`."""
    tree = ast.parse(source)
    sections = {  # `model = params.model` and the like is a section of the params
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).endswith("params.model")
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in {"model", "self.model"} - sections
    }


def test_the_search_finds_attributes_of_models_and_not_those_of_params():
    assert attributes_of_models("self.model.a.b = model.c(params.model.d)") == {"a", "c"}
    assert attributes_of_models("model = params.model\nmodel.a") == set()


def test_every_attribute_that_is_read_from_a_model_is_declared():
    declared = {*dir(keras.Model), *vars(BaseModel), *BaseModel.__annotations__}
    undeclared = {
        str(file): names
        for file in FILES
        if (names := attributes_of_models(file.read_text("utf-8")) - declared)
    }
    assert not undeclared
