# SPDX-License-Identifier: Apache-2.0
"""Every command that README.md, docs/*.md and the heads of configs/*.yaml tell a user to type.

A shell reads them, so that variables, loops and quotes mean what they mean to a user; each program
is a function there that writes down its arguments and does nothing else.
"""

import re
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "configs").rglob("*.yaml"))
PROGRAMS = (
    *("python", "pytest", "make", "pip", "tensorboard", "saved_model_cli", "curl"),
    *("csrun_cpu", "csrun_wse", "/usr/bin/time", ".venv/bin/python"),
    *(".venv-jax/bin/python", ".venv-jax/bin/pip", ".venv-beam/bin/python"),
    *(".venv-temporal/bin/python", ".venv-temporal/bin/temporal"),
)
COMMAND = re.compile(rf" *(\$ )?(\w+=\S* )*({'|'.join(map(re.escape, PROGRAMS))}) |[A-Z]+=|export ")
# What a page takes from the README's: its own settings come after them.
PREAMBLE = """
set -u
P=configs/params_bert_minilm_sst2.yaml D=model_dir/minilm_sst2 WEIGHTS=WEIGHTS
PATH= SLURM_JOB_NODELIST=host1,host2 SLURM_PROCID=0 JOB_COMPLETION_INDEX=0
FIELD=$'\\x1f'
# In one line, which bash writes at once: workers that a page starts with & note at the same time.
note() {
    local IFS=$FIELD cluster=${TF_CONFIG-}
    printf '%s\\0' "$page$FIELD${cluster//$'\\n'/ }$FIELD$*" >> "$notes"
}
command_not_found_handle() { note unknown "$@"; }
exec() { "$@"; }
srun() { eval "$3"; }
scontrol() { printf 'host1\\nhost2\\n'; }
sed() { /usr/bin/sed "$@"; }
kill() { :; }  # of a run that writes itself down
paste() { /usr/bin/paste "$@"; }
"""


@dataclass(frozen=True)
class Command:
    """One command: the page that has it, its words, and the TF_CONFIG that it is started with."""

    page: str
    words: tuple
    tf_config: str = ""

    def __str__(self):
        return f"{self.page}: {' '.join(self.words)}"


def documented_commands(folder):
    """Returns a list of Command. folder: Path of an empty folder for the shell's files."""
    notes, ends = folder / "notes", []
    lines = [PREAMBLE, f"notes={notes}"]
    lines += [f'function {name} {{ note {name} "$@"; }}' for name in PROGRAMS]
    for number, page in enumerate(PAGES):
        script = folder / f"page{number}.sh"
        name = str(page.relative_to(ROOT))
        script.write_text("\n".join(snippets_of(page)) + "\nwait\nnote end\n", "utf-8")
        lines.append(f"(page={name}; . {script})")
        ends.append(name)
    done = subprocess.run(
        ["bash"], input="\n".join(lines), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "", done.stderr
    commands = []
    for note in notes.read_text("utf-8").split("\0")[:-1]:
        page, tf_config, *words = note.split("\x1f")
        if words == ["end"]:
            ends.remove(page)
        else:
            commands.append(Command(page, tuple(words), tf_config))
    assert not ends, f"the shell stopped within {ends}"
    return commands


def snippets_of(page):
    """Returns the commands of a page as the shell is to read them: list of str."""
    text = page.read_text("utf-8")
    if page.suffix == ".yaml":
        head = [line[1:] for line in text.splitlines() if line.startswith("#")]
        text = re.sub(r"((?:^ {2,}\S.*\n)+)", r"```\n\1```\n", "\n".join(head) + "\n", flags=re.M)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S)
    snippets = [
        snippet for language, block in blocks if not language for snippet in commands_in(block)
    ]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", prose)
    snippets.append("unset TF_CONFIG")  # a job's; the sentences are read after all blocks
    return snippets + [span for span in spans if COMMAND.match(span) and "=" not in span.split()[0]]


def commands_in(block):
    """Returns the commands of a block without a language, which may be anything: list of str."""
    if block.startswith("apiVersion:"):  # of Kubernetes
        (container,) = list(yaml.safe_load_all(block))[-1]["spec"]["template"]["spec"]["containers"]
        return container["args"]
    block = re.sub(r"<[\w .]+>", "PLACEHOLDER", textwrap.dedent(block))
    lines = block.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):  # with what it prints
        return [line[2:] for line in lines if line.startswith("$ ")]
    return [block] if any(map(COMMAND.match, lines)) else []
