#!/usr/bin/env python3
"""What can be checked of modules and examples without an AWS: format, tables of the READMEs, `validate`, the modules' own tests with a mocked
provider, and checkov.

    static.py [--quick | --modules]

`--quick` is the format and the tables alone: seconds, without the provider. `--modules` leaves out what is the same whichever program reads the
modules: tables and checkov. The rest needs `terraform` or `tofu` and a directory with the AWS
provider, as against_moto.py does, and `checkov`. What is missing is said and counted as skipped. Exit code 1: a check failed; 77: nothing
could be tested; 0: every check that could run held.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import against_moto

TERRAFORM = against_moto.TERRAFORM

# Not an example but what people had before it: its findings are the reason for the rest.
BEFORE = "adopt-single-master/before"


class Static:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, 0, 0

    def run(self, what, command, **options):
        """One check: what the command says is shown only when it fails."""
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
        if done.returncode == 0:
            print(f"ok: {what}", flush=True)
            self.passed += 1
        else:
            print(f"FAILED: {what}\n{done.stdout[-8000:]}", flush=True)
            self.failed += 1
        return done

    def skip(self, what):
        print(f"SKIPPED: {what}", flush=True)
        self.skipped += 1


def configurations():
    """Every folder with a configuration."""
    return sorted({path.parent for path in TERRAFORM.rglob("*.tf") if ".terraform" not in path.parts})


def with_provider(static, terraform, plugins, root):
    """In a copy, so that nothing is left in the tree."""
    copy = root / "terraform"
    shutil.copytree(TERRAFORM, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "__pycache__"))
    (root / "terraformrc").touch()
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "TF_CLI_CONFIG_FILE": str(root / "terraformrc"), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    for folder in configurations():
        name = folder.relative_to(TERRAFORM)
        options = {"cwd": copy / name, "env": environment}
        if static.run(f"init {name}", [terraform, "init", "-no-color", "-backend=false", f"-plugin-dir={plugins}"], **options).returncode != 0:
            continue
        static.run(f"validate {name}", [terraform, "validate", "-no-color"], **options)
        if (folder / "tests").is_dir():
            done = static.run(f"tests of {name}", [terraform, "test", "-no-color"], **options)
            counts = re.search(r"(\d+) passed, \d+ failed(, \d+ skipped)?", done.stdout)
            if done.returncode == 0 and (not counts or int(counts[1]) == 0 or counts[2]):
                # Interrupted, Terraform skips the rest and calls that a success.
                print(f"FAILED: not every test of {name} ran\n{done.stdout[-2000:]}", flush=True)
                static.failed += 1
            elif done.returncode == 0:
                # The whole was counted once already.
                static.passed += int(counts[1]) - 1


def checkov(static):
    found = shutil.which(os.environ.get("QUORATE_CHECKOV_BIN", "checkov"))
    if not found:
        static.skip("checkov: not on the PATH; `pip install checkov==3.3.30` brings it")
        return
    command = [found, "--directory", str(TERRAFORM / "examples"), "--framework", "terraform", "--compact", "--skip-download", "--skip-path", BEFORE, "--output", "json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        report = json.loads(done.stdout)
        summary, results = report["summary"], report["results"]
    except (ValueError, KeyError, TypeError):
        print(f"FAILED: checkov gave no report\n{done.stdout[-2000:]}{done.stderr[-2000:]}", flush=True)
        static.failed += 1
        return
    for each in results["failed_checks"]:
        print(f"    {each['check_id']} {each['resource']} in {each['file_path']}: {each['check_name']}", flush=True)
    for each in results["skipped_checks"]:
        if len(each["check_result"].get("suppress_comment") or "") < 20:
            print(f"    {each['check_id']} {each['resource']} in {each['file_path']} is suppressed without a reason", flush=True)
            summary["failed"] += 1
    # The modules are looked at through the examples: a run that did not follow them sees only a handful of resources.
    holds = summary["failed"] == 0 and summary["parsing_errors"] == 0 and summary["passed"] > 100
    print(f"{'ok' if holds else 'FAILED'}: checkov {summary['checkov_version']}: {summary['passed']} passed, {summary['failed']} failed, {summary['skipped']} suppressed with a reason, {summary['parsing_errors']} not understood", flush=True)
    static.passed += holds
    static.failed += not holds


def main():
    quick, modules = sys.argv[1:] == ["--quick"], sys.argv[1:] == ["--modules"]
    if sys.argv[1:] and not quick and not modules:
        sys.exit(__doc__)
    static = Static()
    if not modules:
        static.run("tables of the READMEs are fresh", [sys.executable, str(TERRAFORM / "tests/tables.py"), "--check"])
    try:
        terraform = against_moto.terraform_binary()
        static.run("format", [terraform, "fmt", "-check", "-diff", "-recursive", str(TERRAFORM)], env={**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1"})
        if not quick:
            with tempfile.TemporaryDirectory(prefix="quorate-static-") as root:
                plugins = against_moto.plugins_for(terraform, pathlib.Path(root) / "plugins")
                with_provider(static, terraform, plugins, pathlib.Path(root))
    except against_moto.Missing as missing:
        static.skip(f"Terraform modules: {missing}")
    if not quick and not modules:
        checkov(static)
    print(f"{static.passed} passed, {static.failed} failed, {static.skipped} skipped", flush=True)
    return 1 if static.failed else 0 if static.passed > 1 else against_moto.SKIPPED


if __name__ == "__main__":
    sys.exit(main())
