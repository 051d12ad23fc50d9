# SPDX-License-Identifier: Apache-2.0
"""The shape of the project: which room may import which, and what every file has.

An import counts wherever it stands: at the head of a file, inside a function, or as the name of a
module in a table for `importlib`.
"""

import ast
import functools
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# From top to bottom: a room imports from its own row and from rows below it.
ROWS = (
    ("run",),
    ("experiments",),
    ("api",),
    ("serving",),
    ("session",),
    ("model", "data", "utils"),
    ("BertClassifierModel", "input"),
    ("common.cs", "common.flags", "common.validate"),
    ("common.training",),
    ("common.export", "common.checkpoints", "common.reports"),
    ("common.tasks",),
    ("common.BaseModel",),
    ("common.losses", "common.metrics", "common.optimizers"),
    ("common.backbones",),
    ("common.layers",),
    ("common.kernels",),
    ("common.platform",),
    ("common.params",),
    ("common.console", "common.errors", "common.file_texts", "common.files", "common.signals"),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"
CAMEL_CASE = {"BertClassifierModel", "BaseModel"}
# A section of the params, a task and a kernel are named after what they are about, as is the file
# of another room that does it: params/optimizer.py, tasks/regression.py, kernels/attention.py.
SHARED_NAMES = ("common/params", "common/tasks", "common/kernels")


def python_files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


PROJECT = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (*ROOT.glob("*.py"), *python_files("common", "input", "experiments", "serving"))
}
ALL_FILES = [*PROJECT.values(), *python_files("tests", "benchmarks", "extras")]


def imported_names(tree):
    """Yields (dotted name, line) of all that a module's source may import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.value, node.lineno


def imports_of(sources):
    """Returns {module: {module that it imports: line}}, of the sources {module: text} alone.

    `from common import files` imports `common.files`, and not what `common` holds besides.
    """
    imports = {}
    for module, source in sources.items():
        found = {name: line for name, line in imported_names(ast.parse(source)) if name in sources}
        packages = {name.rpartition(".")[0] for name in found}
        imports[module] = {
            name: line for name, line in found.items() if name != module and name not in packages
        }
    return imports


def room_of(module):
    """Returns the room that a module belongs to, or None."""
    parts = module.split(".")
    return next((name for n in (2, 1) if (name := ".".join(parts[:n])) in ROW_OF), None)


def upward_imports(imports):
    return [
        f"{module}:{line} imports {imported}"
        for module, targets in sorted(imports.items())
        for imported, line in targets.items()
        if ROW_OF.get(room_of(imported), len(ROWS)) < ROW_OF.get(room_of(module), 0)
    ]


def circles(imports):
    """Returns the sets of nodes from which each can reach each other, of more than one node."""

    @functools.cache
    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            new = imports.get(waiting.pop(), {}).keys() - seen
            seen |= new
            waiting += new
        return seen

    found = {
        frozenset(other for other in reached(module) if module in reached(other))
        for module in imports
        if module in reached(module)
    }
    return sorted(sorted(circle) for circle in found)


def between_rooms(imports):
    rooms = {}
    for module, targets in imports.items():
        room = room_of(module)
        targets = {room_of(each): line for each, line in targets.items()}
        rooms.setdefault(room, {}).update({k: v for k, v in targets.items() if k != room})
    return rooms


@functools.cache
def project_imports():
    return imports_of({name: path.read_text("utf-8") for name, path in PROJECT.items()})


# ---- The project ---------------------------------------------------------------------------------


def test_every_file_lies_in_a_room_and_every_room_has_files():
    rooms = {module: room_of(module) for module in PROJECT if module not in ("common", "input")}
    assert [module for module, room in rooms.items() if room is None] == []
    assert ROW_OF.keys() - rooms.values() == set()


def test_no_module_imports_one_of_a_room_above_it():
    assert upward_imports(project_imports()) == []


def test_no_modules_and_no_rooms_import_each_other_in_a_circle():
    assert circles(project_imports()) == []
    assert circles(between_rooms(project_imports())) == []


def test_files_have_names_in_lower_case_but_for_the_two_models():
    stems = {path.stem.removeprefix("test_") for path in ALL_FILES}
    assert {stem for stem in stems if stem != stem.lower()} <= CAMEL_CASE


def test_no_two_files_of_common_have_the_same_name():
    paths = [path.relative_to(ROOT) for path in python_files("common") if path.stem != "__init__"]
    names = Counter(path.name for path in paths if str(path.parent) not in SHARED_NAMES)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_file_begins_with_one_licence_line_and_a_docstring():
    faulty = []
    for path in ALL_FILES:
        text = path.read_text("utf-8")
        is_licensed = text.startswith(LICENCE) and text.count(f"\n{LICENCE}") == 0
        if not is_licensed or not ast.get_docstring(ast.parse(text)):
            faulty.append(str(path.relative_to(ROOT)))
    assert faulty == []


# ---- What is found -------------------------------------------------------------------------------


def test_imports_within_functions_and_tables_are_found():
    imports = imports_of(
        {
            "common.errors": "",
            "common.files": "",
            "common.layers.dense": "",
            "model": "from common import errors\ndef make():\n    from common.files import write",
            "run": 'import model\nTABLE = {"dense": "common.layers.dense"}',
            "common": "",
        }
    )
    assert imports["model"] == {"common.errors": 1, "common.files": 3}
    assert imports["run"] == {"model": 1, "common.layers.dense": 2}


def test_an_import_that_points_upwards_is_named_with_its_line():
    imports = {"common.layers.dense": {"common.training.loop": 7, "common.layers.dropout": 1}}
    assert upward_imports(imports) == ["common.layers.dense:7 imports common.training.loop"]
    assert upward_imports({"common.training.loop": {"common.layers.dense": 7}}) == []


def test_circles_are_found_whatever_their_length():
    imports = {"a": {"b": 1}, "b": {"c": 1, "d": 1}, "c": {"a": 1}, "d": {}, "e": {"a": 1}}
    assert circles(imports) == [["a", "b", "c"]]
    assert circles({"a": {"b": 1}, "b": {}}) == []
