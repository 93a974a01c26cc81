"""Playbooks as a person runs them, with a quorate that is a script: the order of asking and handing over, and what ends a play."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = "ab" * 32

# Answers as the operator's side and as the host's side, from files beside it, and notes what it was asked.
FAKE = """#!%s
import json, pathlib, sys
here = pathlib.Path(%r)
words = sys.argv[1:]
def note(line):
    with open(here / "log", "a") as log:
        log.write(line + "\\n")
rounds = json.loads((here / "rounds").read_text())
goal = words[words.index("--convert"):] if "--convert" in words else []
if words[:2] == ["node", "run"]:
    carried = json.loads(sys.stdin.read())
    note("act " + carried["ticket"])
    print("on the way", file=sys.stderr)
    print(json.dumps(carried["request"]))
elif words[:2] == ["lock", "take"]:
    note(" ".join(["take"] + goal))
    refusal = here / "refusal"
    if refusal.exists():
        sys.exit(refusal.read_text())
    pathlib.Path(words[words.index("--out") + 1]).write_text("fence")
    print(json.dumps({"steps": len(rounds)}))
elif words[0] == "requests" and "-f" in words:
    note(" ".join(["foresee"] + goal))
    hosts = {}
    provider = []
    for one in rounds:
        provider.extend(one.pop("provider", []))
        for name, steps in one.items():
            hosts.setdefault(name, []).extend(steps)
    for steps in hosts.values():
        for step in steps:
            step.pop("carried")
    print(json.dumps({"left": len(rounds), "hosts": hosts, "provider": provider}))
elif words[0] == "requests":
    assert pathlib.Path(words[1]).read_text() == "fence"
    note("ask")
    first = rounds.pop(0) if rounds else None
    (here / "rounds").write_text(json.dumps(rounds))
    hosts = first or {}
    provider = hosts.pop("provider", [])
    (here / "provider").write_text(json.dumps(provider))
    print(json.dumps({"left": len(rounds) + 1 if first is not None else 0, "hosts": hosts, "provider": provider}))
elif words[0] == "provide":
    assert pathlib.Path(words[1]).read_text() == "fence"
    steps = json.loads((here / "provider").read_text())
    for one in steps:
        note("provide " + one["what"])
        if one["what"] == "refused":
            sys.exit("error: Q0 cp-1 is the last target")
    print(json.dumps({"steps": len(steps)}))
elif words[:2] == ["lock", "release"]:
    note("release")
elif words[:2] == ["drill", "run"]:
    note(" ".join(words))
    refusal = here / "refusal"
    if refusal.exists():
        print(refusal.read_text(), file=sys.stderr)
        sys.exit(3)
    print("verdict: every rule held")
elif words[0] == "status":
    note("status")
    print("{}")
else:
    sys.exit("unexpected: %%r" %% words)
"""


def step(host, role, what, answer):
    """One step of a host, whose request is the answer that the host will give."""
    return {
        "stage": "Stage",
        "role": role,
        "what": what,
        "because": "later steps need it",
        "differences": ["%s: expected yes, seen no" % what],
        "binary": BINARY,
        "carried": {"ticket": "%s %s" % (host, what), "request": answer},
    }


def target(what):
    """One step of the provider."""
    return {"stage": "Stage", "what": what, "because": "later steps need it", "differences": ["%s: expected healthy, seen none" % what]}


def did(*changed):
    return {"outcome": {"changed": list(changed), "report": {}}}


class Play:
    """A play over three hosts on this machine."""

    def __init__(self, place, rounds):
        self.place = place
        collection = place / "ansible_collections/quorate/cluster"
        ignored = shutil.ignore_patterns("tests", "__pycache__", ".ansible")
        shutil.copytree(ROOT, collection, ignore=ignored)
        module = collection / "plugins/modules/node.py"
        text = module.read_text()
        assert '"/var/lib/quorate/bin"' in text
        module.write_text(text.replace('"/var/lib/quorate/bin"', repr(str(place))))
        for name in ("quorate", "quorate-" + BINARY):
            (place / name).write_text(FAKE % (sys.executable, str(place)))
            (place / name).chmod(0o755)
        (place / "rounds").write_text(json.dumps(rounds))
        (place / "log").write_text("")
        (place / "hosts.ini").write_text(
            "[quorate]\ncp-1\ncp-2\nlb-1\n[quorate:vars]\nansible_connection=local\nquorate_file=demo.yaml\n"
            "ansible_python_interpreter=%s\nloadbalancer_port=1\n" % sys.executable
        )

    def environment(self):
        return {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.place),
            "ANSIBLE_LOCAL_TEMP": str(self.place / "tmp"),
            "ANSIBLE_REMOTE_TEMP": str(self.place / "tmp"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_NOCOLOR": "1",
            "QUORATE_BIN": str(self.place / "quorate"),
            "PWD": str(self.place),
        }

    def run(self, *more, playbook="site"):
        """Its exit code, output, and counts by host."""
        command = [str(pathlib.Path(sys.executable).parent / "ansible-playbook"), "quorate.cluster.%s" % playbook, "-i", "hosts.ini", *more]
        done = subprocess.run(command, cwd=self.place, env=self.environment(), capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        counts = {}
        assert "PLAY RECAP" in done.stdout, output
        for line in done.stdout.rpartition("PLAY RECAP")[2].splitlines():
            name, colon, rest = line.partition(":")
            if colon and "=" in rest:
                counts[name.strip()] = {key: int(value) for key, value in (word.split("=") for word in rest.split())}
        return done.returncode, output, counts

    def log(self):
        return (self.place / "log").read_text().splitlines()


@pytest.fixture
def play(tmp_path):
    return lambda rounds: Play(tmp_path, rounds)


def test_rounds_are_handed_over_one_after_another(play):
    made = play(
        [
            {host: [step(host, "prepare", "marked", did("mark: expected demo, seen nothing"))] for host in ("cp-1", "cp-2", "lb-1")},
            {"cp-1": [step("cp-1", "master", "founded", did("etcd: expected a member, seen none"))]},
            {"cp-1": [step("cp-1", "cni", "network", did())]},
            {"cp-2": [step("cp-2", "worker", "joined", {"busy": {"action": "x", "sinceMs": 1, "fence": 1}})]},
            {"cp-2": [step("cp-2", "worker", "joined", did("node: expected, seen none"))]},
        ]
    )
    code, output, counts = made.run("--diff")
    assert code == 0, output
    log = made.log()
    assert log[:2] == ["take", "ask"]
    assert sorted(log[2:5]) == ["act cp-1 marked", "act cp-2 marked", "act lb-1 marked"]
    assert log[5:] == [
        "ask",
        "act cp-1 founded",
        "ask",
        "act cp-1 network",
        "ask",
        "act cp-2 joined",
        "ask",
        "act cp-2 joined",
        "ask",
        "release",
        "status",
    ]
    # The first host has the taking of the fence as well.
    assert [counts[host]["changed"] for host in ("cp-1", "cp-2", "lb-1")] == [3, 2, 1], output
    assert "etcd: expected a member, seen none" in output, "the diff is the host's own"


def test_many_rounds(play):
    made = play([{"cp-1": [step("cp-1", "master", "step %d" % number, did("x"))]} for number in range(12)])
    code, output, counts = made.run()
    assert code == 0, output
    assert [line for line in made.log() if line.startswith("act")] == ["act cp-1 step %d" % number for number in range(12)]
    assert made.log()[-2:] == ["release", "status"]
    assert counts["cp-1"]["changed"] == 13


def test_nothing_to_do_changes_nothing(play):
    made = play([])
    code, output, counts = made.run()
    assert code == 0, output
    assert made.log() == ["take", "status"]
    assert all(count["changed"] == 0 for count in counts.values()), output


def test_check_mode_shows_differences_and_takes_nothing(play):
    made = play(
        [
            {"cp-1": [step("cp-1", "prepare", "marked", did("x"))], "lb-1": [step("lb-1", "loadbalancer", "balancer", did("x"))]},
            {"cp-1": [step("cp-1", "master", "founded", did("x"))]},
        ]
    )
    code, output, counts = made.run("--check", "--diff")
    assert code == 0, output
    assert made.log() == ["foresee"]
    assert [counts[host]["changed"] for host in ("cp-1", "cp-2", "lb-1")] == [2, 0, 1], output
    assert "founded: expected yes, seen no" in output


def test_a_refusal_ends_the_play_for_all_and_keeps_the_fence(play):
    made = play(
        [
            {
                "cp-1": [step("cp-1", "master", "learner", {"refused": {"code": "learner-present"}})],
                "cp-2": [step("cp-2", "master", "kubelet", did("x"))],
            },
            {"cp-2": [step("cp-2", "master", "next", did("x"))]},
        ]
    )
    code, output, _ = made.run()
    assert code != 0
    assert "quorate explain learner-present" in output
    log = made.log()
    assert log.count("ask") == 1 and "release" not in log and "act cp-2 next" not in log, log


def test_a_play_without_all_hosts_hands_nothing_over(play):
    made = play([{"cp-1": [step("cp-1", "prepare", "marked", did("x"))], "cp-2": [step("cp-2", "prepare", "marked", did("x"))]}])
    code, output, _ = made.run("--limit", "cp-1")
    assert code != 0
    assert "run the play without --limit" in output
    assert made.log() == ["take", "ask"]


def test_a_step_of_another_role_is_not_taken(play):
    wrong = step("cp-1", "prepare", "marked", did("x"))
    del wrong["because"]
    made = play([{"cp-1": [wrong]}])
    code, output, _ = made.run()
    assert code != 0
    assert "because" in output
    assert made.log() == ["take", "ask"]


def test_the_provider_has_its_turn_when_hosts_had_theirs(play):
    made = play(
        [
            {"cp-1": [step("cp-1", "master", "serves", did("x"))], "provider": [target("target cp-1"), target("target cp-2")]},
            {"provider": [target("target cp-3")]},
        ]
    )
    code, output, counts = made.run()
    assert code == 0, output
    assert made.log() == [
        "take",
        "ask",
        "act cp-1 serves",
        "provide target cp-1",
        "provide target cp-2",
        "ask",
        "provide target cp-3",
        "ask",
        "release",
        "status",
    ]
    # The fence, its own step, and the provider twice.
    assert [counts[host]["changed"] for host in ("cp-1", "cp-2", "lb-1")] == [4, 0, 0], output


def test_check_mode_shows_what_is_the_providers(play):
    made = play([{"provider": [target("target cp-1")]}])
    code, output, counts = made.run("--check", "--diff")
    assert code == 0, output
    assert made.log() == ["foresee"]
    assert "target cp-1: expected healthy, seen none" in output
    assert counts["cp-1"]["changed"] == 1, output


def test_a_refusal_of_the_provider_ends_the_play(play):
    made = play([{"provider": [target("refused")]}, {"cp-1": [step("cp-1", "master", "next", did("x"))]}])
    code, output, _ = made.run()
    assert code != 0
    assert "cp-1 is the last target" in output
    assert made.log() == ["take", "ask", "provide refused"]


def test_a_conversion_is_rounds_with_another_goal(play):
    made = play([{"cp-1": [step("cp-1", "master", "kept", did("x"))]}, {"cp-2": [step("cp-2", "worker", "led", did("x"))]}])
    code, output, counts = made.run(playbook="convert")
    assert code == 0, output
    assert made.log() == ["take --convert", "ask", "act cp-1 kept", "ask", "act cp-2 led", "ask", "release", "status"]
    assert [counts[host]["changed"] for host in ("cp-1", "cp-2", "lb-1")] == [2, 1, 0], output


@pytest.mark.parametrize(
    ("given", "goal"),
    [("quorate_convert_undo=true", "--convert --undo"), ("quorate_convert_pause_after=backup", "--convert --pause-after backup")],
)
def test_a_conversion_that_is_not_whole_afterwards_is_not_waited_for(play, given, goal):
    made = play([{"cp-1": [step("cp-1", "master", "kept", did("x"))]}])
    code, output, _ = made.run("-e", given, playbook="convert")
    assert code == 0, output
    assert made.log() == ["take " + goal, "ask", "act cp-1 kept", "ask", "release"]


def test_the_backup_of_a_conversion_goes_where_it_is_told(play):
    made = play([])
    given = '{"quorate_convert_backup": "/mnt/safe", "quorate_convert_backup_recipients": ["age1a", "age1b"]}'
    code, output, _ = made.run("-e", given, playbook="convert")
    assert code == 0, output
    assert made.log() == ["take --convert --backup /mnt/safe --backup-recipient age1a --backup-recipient age1b", "status"]


def test_check_mode_shows_what_a_conversion_would_do(play):
    made = play([{"cp-1": [step("cp-1", "master", "kept", did("x"))]}])
    code, output, counts = made.run("--check", "--diff", playbook="convert")
    assert code == 0, output
    assert made.log() == ["foresee --convert"]
    assert "kept: expected yes, seen no" in output
    assert counts["cp-1"]["changed"] == 1


def test_a_risk_is_accepted_by_name(play):
    made = play([])
    code, output, _ = made.run("-e", '{"quorate_accept": ["--accept", "old-address-in-use=w-1"]}', playbook="convert")
    assert code == 0, output
    assert made.log() == ["take --convert --accept old-address-in-use=w-1", "status"]


def test_who_uses_the_old_address_ends_a_conversion_with_its_words(play):
    made = play([{"cp-1": [step("cp-1", "master", "joined", did("x"))]}])
    (made.place / "refusal").write_text("refused [old-address-in-use]: kubelet of w-1 is connected to 10.0.0.11:6443")
    code, output, _ = made.run(playbook="convert")
    assert code != 0
    assert "kubelet of w-1 is connected to 10.0.0.11:6443" in output
    assert made.log() == ["take --convert"]


def test_a_drill_is_asked_for_and_shown(play):
    made = play([])
    code, output, _ = made.run("-e", "quorate_file=demo.yaml", "-e", "quorate_drill_target=cp-2", playbook="drill")
    assert code == 0, output
    assert made.log() == ["drill run power-loss --target cp-2 --report %s/drill.json -f demo.yaml" % made.place]
    assert "every rule held" in output


def test_a_drill_of_hosts_that_somebody_has_is_refused_with_its_words(play):
    made = play([])
    words = "quorate cannot take power from hosts that it did not make"
    (made.place / "refusal").write_text(words)
    code, output, _ = made.run("-e", "quorate_file=demo.yaml", playbook="drill")
    assert code != 0
    assert words in output
