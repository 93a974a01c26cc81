"""Console blocks of the guide that need no machines but Terraform's, run as they stand there, and the files that the page shows beside them.

A fence says who runs its block: `console terraform=STORY`, for which against_moto.py has a function. `file=NAME` is a file that is written where
the commands run. A line that begins with `$ ` is a command. Every other line is printed by the command above it, in this order, with others in
between; `…` stands for anything, and what follows `Enter a value: ` or ` to go on: ` is typed. See tests/live/src/blocks.rs, which reads pages
alike for the live cases.
"""

import os
import pathlib
import re

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs/guide"
QUESTION = re.compile(r"(Enter a value|to go on): (\S+)$")
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def blocks(text):
    """(line, words of the fence, lines) of every block."""
    found, fence = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("```"):
            if fence is None:
                fence = (number, line.strip()[3:].split(), len(line) - len(line.lstrip()), [])
            else:
                found.append((fence[0], fence[1], fence[3]))
                fence = None
        elif fence is not None:
            fence[3].append(line[fence[2]:])
    return found


def commands(lines):
    """[command, lines that it prints]"""
    found, goes_on = [], False
    for line in map(str.strip, lines):
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif goes_on:
            found[-1][0] = found[-1][0][:-1] + line
        elif line:
            found[-1][1].append(line)
        goes_on = (line.startswith("$ ") or goes_on) and line.endswith("\\")
    return found


def misses(wanted, said):
    """The first wanted line that was not said, in order."""
    rest = iter([COLOUR.sub("", line).strip() for line in said.replace("\r", "").splitlines()])
    for line in wanted:
        parts = [re.escape(part.strip()) for part in QUESTION.sub(r"\1:", line).split("…")]
        if not any(re.match(".*".join(parts), each) for each in rest):
            return line
    return None


def offline(folder):
    """The environment of a folder in which `terraform init` finds the provider as the tests do."""
    return {**folder.environment, "TF_CLI_ARGS_init": f"-plugin-dir={folder.tools.plugins}"}


def run(name, story, directory, shell, that):
    """Runs what a page has for a story, in order, up to the first command that fails: the next ones build upon it. `shell(words, typed)` gives
    the exit code and all that was said; `that` counts a check."""
    ran = 0
    for line, words, lines in blocks((GUIDE / name).read_text()):
        if f"terraform={story}" not in words:
            continue
        for word in words:
            if word.startswith("file="):
                (directory / word.removeprefix("file=")).write_text("\n".join(lines) + "\n")
        for command, prints in commands(lines) if words[0] == "console" else []:
            code, said = one(command, prints, shell)
            missed = misses(prints, said)
            that(code == 0, f"{name}:{line}: `{command}` succeeds", said[-4000:])
            that(missed is None, f"{name}:{line}: `{command}` prints what the page says", f"not printed: {missed}\n{said[-4000:]}")
            if code != 0:
                return
            ran += 1
    that(ran > 2, f"{name} has commands for {story}", ran)


def one(command, prints, shell):
    """On a terminal where it asks, as a person would answer there."""
    answers = [found[2] for found in map(QUESTION.search, prints) if found]
    if answers:
        return shell(["script", "-qec", command, os.devnull], "".join(f"{answer}\n" for answer in answers))
    return shell(["sh", "-c", command], "")
