"""An inventory from a cluster file's hosts and from Terraform's output."""

import json

import pytest
from ansible.errors import AnsibleParserError

MADE_BY_QUORATE = {
    "apiVersion": "quorate/v1",
    "kind": "Hosts",
    "cluster": "demo",
    "endpoint": {"host": "api.demo.internal", "port": 6443},
    "hosts": {
        "cp-1": {
            "role": "master",
            "address": "10.0.0.11",
            "port": 22,
            "user": "ops",
            "sudo": True,
            "identity": "/keys/ops",
            "knownHosts": ["/state/known hosts", "/home/ada/.ssh/known_hosts"],
        },
        "lb-1": {"role": "loadbalancer", "address": "10.0.0.201", "port": 2222, "user": "root", "sudo": False, "knownHosts": []},
    },
}


def test_a_cluster_file(hosts):
    read = hosts.of_cluster_file(MADE_BY_QUORATE)
    role, variables = read["cp-1"]
    assert role == "master"
    assert variables["ansible_become"] is True
    assert variables["ansible_ssh_private_key_file"] == "/keys/ops"
    assert "StrictHostKeyChecking=yes" in variables["ansible_ssh_common_args"]
    role, variables = read["lb-1"]
    assert (role, variables["ansible_port"], variables["ansible_become"]) == ("loadbalancer", 2222, False)


def test_another_object_is_refused(hosts):
    with pytest.raises(AnsibleParserError, match="expected quorate/v1 Hosts"):
        hosts.of_cluster_file({"apiVersion": "quorate/v1", "kind": "Plan"})


def test_terraforms_output(hosts):
    cluster = {
        "version": 1,
        "endpoint": {"host": "api.demo.internal", "port": 6443},
        "masters": [{"name": "cp-1", "address": "10.0.1.10", "zone": "a"}],
        "workers": [{"name": "w-1", "address": "10.0.1.20", "zone": "a"}],
    }
    read = hosts.of_terraform({"quorate_cluster": {"value": cluster}}, "admin")
    assert read["cp-1"] == ("master", {"ansible_host": "10.0.1.10", "ansible_user": "admin", "ansible_become": True})
    assert read["w-1"][0] == "worker"
    with pytest.raises(AnsibleParserError, match="expected version 1"):
        hosts.of_terraform({"quorate_cluster": {"value": dict(cluster, version=2)}}, "admin")
    with pytest.raises(AnsibleParserError, match="no output `quorate_cluster`"):
        hosts.of_terraform({}, "admin")


def test_what_a_command_says_is_told(hosts, tmp_path):
    assert hosts.asked(["sh", "-c", "echo '%s'" % json.dumps({"a": 1})], tmp_path) == {"a": 1}
    with pytest.raises(AnsibleParserError, match="ended with 2: no such file"):
        hosts.asked(["sh", "-c", "echo no such file >&2; exit 2"], tmp_path)
    with pytest.raises(AnsibleParserError, match="printed no JSON"):
        hosts.asked(["echo", "hello"], tmp_path)
    with pytest.raises(AnsibleParserError, match="could not start"):
        hosts.asked(["./nosuch"], tmp_path)
