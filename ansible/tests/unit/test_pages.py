"""Console blocks of the guide to this collection that need no hosts, run as they stand there, with a quorate that is a script. A fence names this
file by the word `play`; how a block is written is told in `tests/live/src/blocks.rs` of the repository."""

import os
import pathlib
import subprocess
import sys

from test_site import ROOT, Play

# Where the collection lies in the repository; `cargo xtask test` runs these tests in a copy elsewhere.
GUIDE = pathlib.Path(os.environ.get("QUORATE_GUIDE", ROOT.parent / "docs/guide"))


def shown(page):
    """(command, lines that it prints) of every block that is for these tests."""
    found, inside = [], False
    for line in map(str.strip, page.read_text().splitlines()):
        if line.startswith("```"):
            inside = line == "```console play"
        elif inside and line.startswith("$ "):
            found.append((line[2:], []))
        elif inside and line:
            found[-1][1].append(line)
    return found


def test_what_the_guide_shows_is_run(tmp_path):
    made = Play(tmp_path, [])
    # From where the page starts: the repository, with the inventory that it made before.
    (tmp_path / "ansible").symlink_to(tmp_path / "ansible_collections/quorate/cluster")
    (tmp_path / "ansible.cfg").write_text("[defaults]\ninventory = hosts.ini\n")
    bin_folder = str(pathlib.Path(sys.executable).parent)
    environment = {**made.environment(), "PATH": "%s:%s:%s" % (tmp_path, bin_folder, os.environ["PATH"]), "HOME": str(tmp_path), "ANSIBLE_HOME": str(tmp_path / ".ansible")}
    del environment["ANSIBLE_COLLECTIONS_PATH"]
    commands = shown(GUIDE / "ansible.md")
    assert len(commands) >= 4
    for command, prints in commands:
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, "%s\n%s" % (command, said)
        lines = iter(said.splitlines())
        for wanted in prints:
            parts = [part.strip() for part in wanted.split("…")]
            assert any(all(part in line for part in parts) for line in lines), "%s prints no %r:\n%s" % (command, wanted, said)
    assert (tmp_path / ".ansible/collections/ansible_collections/quorate/cluster/galaxy.yml").exists() or (
        tmp_path / ".ansible/collections/ansible_collections/quorate/cluster/MANIFEST.json"
    ).exists()
    log = made.log()
    assert "take --convert --pause-after backup" in log
    assert "take --convert --undo" in log
    assert any(line.startswith("drill run") for line in log)
