# SPDX-License-Identifier: Apache-2.0
"""Puts a program beside an export that makes rows of texts, and entities or answers of outputs.

A graph that takes ids knows neither windows nor characters. The program is made of the files of
`decoders/`, which need NumPy and the package tokenizers alone.
"""

import json
import re
from pathlib import Path

from common.checkpoints.small_files import write_json
from common.tasks import span_answers

HERE = Path(__file__).with_name("decoders")
IMPORT = re.compile(r"^from (?:bert_classifier\.)?common\.(?:\w+\.)*(\w+) import", re.MULTILINE)
PROGRAM, SETTINGS = "decode.py", "decoder.json"
COMMON = {name: HERE / name for name in ("windows.py", "vocabulary.py")}
# {Answer.decoder: {name in the export: file of this project}}
FILES = {
    "words": {PROGRAM: HERE / "words.py", **COMMON},
    "questions": {
        PROGRAM: HERE / "questions.py",
        "span_answers.py": Path(span_answers.__file__),
        **COMMON,
    },
}


def write_decoder(classifier, folder):
    """Writes decode.py, what it imports, and decoder.json, where the task has a decoder.

    folder: Path, which has the vocabulary.
    """
    if classifier.answer.decoder is None:
        return
    for name, source in FILES[classifier.answer.decoder].items():
        # There they lie in one folder.
        text = IMPORT.sub(r"from \1 import", source.read_text("utf-8"))
        (folder / name).write_text(text, "utf-8", newline="\n")
    settings = settings_of(classifier.model, classifier.params.predict_input)
    write_json(folder / SETTINGS, settings)


def settings_of(model, data):
    """Returns what a program needs to know that makes rows of texts, and reads what the network
    says of them: dict that JSON can hold.

    model: BaseModel. data: InputParams of what is predicted.
    """
    return {
        "task": model.task,
        "max_sequence_length": data.max_sequence_length,
        "do_lower_case": data.do_lower,
        "add_special_tokens": data.add_special_tokens,
        "input_mask_is_of_padding": data.invert_mask,
        **model.decoder_settings(data),
    }


def decoder_usage(classifier, load, run):
    """Returns how to use the program, in Markdown; "" where the task has none.

    load: Python lines that load the network. run: those that give `outputs` of `rows.features`.
    """
    if classifier.answer.decoder is None:
        return ""
    example = classifier.example
    texts = json.dumps(example[0]) if len(example) == 1 else f"({json.dumps(list(example))[1:-1]})"
    return f"""
`{PROGRAM}` makes rows of texts, whatever their length, and reads what the network says of them. It
needs `pip install numpy tokenizers`:

```python
{load}
from decode import Decoder

decoder = Decoder(".")
rows = decoder.rows([{texts}])
{run}
print(decoder.decode(rows, outputs))
```
"""
