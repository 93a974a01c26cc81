#!/usr/bin/env python3
"""Writes the tables of inputs, outputs and ports into the modules' READMEs, between their markers. With --check it changes nothing and says
which are stale (exit code 1).

It reads the modules' own .tf files as `terraform fmt` leaves them; it is no parser of HCL in general, and stops at what it does not understand.
"""

import json
import pathlib
import re
import sys

MODULES = pathlib.Path(__file__).resolve().parent.parent / "modules"
BLOCK = re.compile(r'^(variable|output) "([a-z0-9_]+)" \{\n(.*?)^\}\n', re.M | re.S)
ATTRIBUTE = re.compile(r"^  (description|type|default|value) += ", re.M)


def attributes(body, where):
    """The attributes of a block that fmt has formatted: each begins with two spaces, what it goes on with is deeper or closes it."""
    found = {}
    for match in ATTRIBUTE.finditer(body):
        rest = body[match.end():]
        heredoc = re.match(r"<<-EOT\n(.*?)^  EOT$", rest, re.M | re.S)
        if heredoc:
            found[match[1]] = " ".join(line.strip().replace("- `", "<br>`", 1) if line.strip().startswith("- ") else line.strip() for line in heredoc[1].splitlines())
            continue
        lines = rest.split("\n")
        taken = [lines[0]]
        for line in lines[1:]:
            if not re.match(r"^(    |  [\]})])", line):
                break
            taken.append(line)
        found[match[1]] = "\n".join(taken).strip()
    if "description" not in found:
        sys.exit(f"{where} has no description")
    text = found["description"]
    found["description"] = json.loads(text) if text.startswith('"') else text
    return found


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def code(text):
    return "`" + re.sub(r"\s+", " ", cell(text)) + "`"


def blocks(module):
    for path in sorted(module.glob("*.tf")):
        text = path.read_text()
        expected = len(re.findall(r'^(?:variable|output) "', text, re.M))
        found = BLOCK.findall(text)
        if len(found) != expected:
            sys.exit(f"{path}: {expected} variables and outputs, {len(found)} understood")
        for kind, name, body in found:
            yield kind, name, attributes(body, f"{path}: {kind} {name}")


def tables(module):
    variables = [(name, each) for kind, name, each in blocks(module) if kind == "variable"]
    outputs = [(name, each) for kind, name, each in blocks(module) if kind == "output"]
    lines = ["## Inputs", "", "| name | type | default | |", "|---|---|---|---|"]
    for name, each in variables:
        kind = re.sub(r"\s+", " ", each["type"])
        lines.append(f"| `{name}` | {code(kind if len(kind) < 40 else kind.split('(')[0])} | {code(each['default']) if 'default' in each else '**required**'} | {cell(each['description'])} |")
    lines += ["", "## Outputs", "", "| name | |", "|---|---|"]
    lines += [f"| `{name}` | {cell(each['description'])} |" for name, each in outputs]
    if (module / "ports.json").is_file():
        lines += ports(json.loads((module / "ports.json").read_text()))
    return "\n".join(lines) + "\n"


def ports(matrix):
    lines = ["", "## Ports", "", "| to | port | from | only with | |", "|---|---|---|---|---|"]
    for rule in matrix["rules"]:
        port = str(rule["first"]) if rule["first"] == rule["last"] else f"{rule['first']}–{rule['last']}"
        lines.append(f"| {rule['to']} | {port}/{rule['protocol']} | {', '.join(rule['from'])} | {rule.get('when', '')} | {cell(rule['why'])} |")
    lines += ["", "Open to nobody, since they listen on the loopback address or are meant to: " + ", ".join(f"{each['port']} ({each['name']})" for each in matrix["loopback"]) + "."]
    return lines


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    stale = []
    for module in sorted(MODULES.iterdir()):
        readme = module / "README.md"
        text = readme.read_text()
        parts = re.split(r"(<!-- tables -->\n)(?:.*?)(<!-- end of tables -->\n)", text, flags=re.S)
        if len(parts) != 4:
            sys.exit(f"{readme} has no markers <!-- tables --> and <!-- end of tables -->")
        new = f"{parts[0]}{parts[1]}\n{tables(module)}\n{parts[2]}{parts[3]}"
        if new != text:
            stale.append(readme)
            if not check:
                readme.write_text(new)
    for readme in stale:
        print(f"{readme.relative_to(MODULES.parent)}: {'stale; run terraform/tests/tables.py' if check else 'written'}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
