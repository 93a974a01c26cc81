# SPDX-License-Identifier: MIT OR Apache-2.0
"""The hosts of a cluster file, or of Terraform's output, as an inventory."""

DOCUMENTATION = r"""
---
name: hosts
short_description: The hosts of a Quorate cluster file, or of Terraform's output
version_added: 0.1.0
description:
  - Reads the hosts and the ways to them from a cluster file, by C(quorate hosts -o json). No host is asked.
  - Or reads the output C(quorate_cluster) of Quorate's Terraform modules, by C(terraform output -json).
  - Hosts are in the groups C(quorate_masters), C(quorate_workers) and C(quorate_loadbalancers), all of them in C(quorate).
  - Host keys are checked against those that C(quorate trust) pinned, then against the user's own.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [quorate.cluster.hosts]
  file:
    description: The cluster file. A relative path is relative to the inventory file.
    type: path
  quorate:
    description: The quorate binary.
    type: str
    default: quorate
    env:
      - name: QUORATE_BIN
  terraform:
    description: A directory with Terraform's state, in place of O(file). A relative path is relative to the inventory file.
    type: path
  terraform_bin:
    description: The binary to ask, C(terraform) or C(tofu).
    type: str
    default: terraform
    env:
      - name: QUORATE_TERRAFORM_BIN
  user:
    description: Whom to log in as on hosts of Terraform's, with C(sudo) where it is not root. A cluster file says that itself.
    type: str
    default: admin
author:
  - The Quorate authors (@quorate)
"""

EXAMPLES = r"""
# quorate.yml
plugin: quorate.cluster.hosts
file: demo.yaml
---
# quorate.yml, from Terraform's output
plugin: quorate.cluster.hosts
terraform: ./terraform
user: admin
"""

import json
import os
import shlex
import subprocess

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

GROUPS = {
    "master": "quorate_masters",
    "worker": "quorate_workers",
    "loadbalancer": "quorate_loadbalancers",
}

VERSION = 1


def of_cluster_file(answer):
    """Hosts by name with role and variables, from what `quorate hosts -o json` prints."""
    if answer.get("apiVersion") != "quorate/v1" or answer.get("kind") != "Hosts":
        raise AnsibleParserError("expected quorate/v1 Hosts, seen %s %s" % (answer.get("apiVersion"), answer.get("kind")))
    hosts = {}
    for name, host in answer["hosts"].items():
        variables = {
            "ansible_host": host["address"],
            "ansible_port": host["port"],
            "ansible_user": host["user"],
            "ansible_become": host["sudo"],
        }
        if host.get("identity"):
            variables["ansible_ssh_private_key_file"] = host["identity"]
        if host.get("knownHosts"):
            files = "UserKnownHostsFile=%s" % " ".join(host["knownHosts"])
            variables["ansible_ssh_common_args"] = "-o %s -o StrictHostKeyChecking=yes" % shlex.quote(files)
        hosts[name] = (host["role"], variables)
    return hosts


def of_terraform(outputs, user):
    """The same from what `terraform output -json` prints."""
    if "quorate_cluster" not in outputs:
        raise AnsibleParserError("there is no output `quorate_cluster`: the root module has to hand on the one of Quorate's module")
    cluster = outputs["quorate_cluster"]["value"]
    if cluster.get("version") != VERSION:
        raise AnsibleParserError("expected version %d of quorate_cluster, seen %r" % (VERSION, cluster.get("version")))
    hosts = {}
    for role, machines in (("master", cluster["masters"]), ("worker", cluster["workers"])):
        for machine in machines:
            hosts[machine["name"]] = (
                role,
                {
                    "ansible_host": machine["address"],
                    "ansible_user": user,
                    "ansible_become": user != "root",
                },
            )
    return hosts


def asked(command, directory):
    """The JSON that a command prints."""
    try:
        done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    except OSError as error:
        raise AnsibleParserError("could not start `%s`: %s" % (command[0], error)) from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise AnsibleParserError("`%s` ended with %d: %s" % (" ".join(command), done.returncode, said))
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise AnsibleParserError("`%s` printed no JSON: %s" % (" ".join(command), error)) from error


class InventoryModule(BaseInventoryPlugin):
    """The plugin."""

    NAME = "quorate.cluster.hosts"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(("quorate.yml", "quorate.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        beside = os.path.dirname(os.path.abspath(path))
        file, terraform = self.get_option("file"), self.get_option("terraform")
        if bool(file) == bool(terraform):
            raise AnsibleParserError("expected either `file` or `terraform`")
        if file:
            file = os.path.join(beside, file)
            answer = asked([self.get_option("quorate"), "hosts", "-f", file, "-o", "json"], beside)
            hosts = of_cluster_file(answer)
            variables = {"quorate_file": file, "quorate_endpoint_port": answer["endpoint"]["port"]}
        else:
            command = [self.get_option("terraform_bin"), "output", "-json"]
            outputs = asked(command, os.path.join(beside, terraform))
            hosts = of_terraform(outputs, self.get_option("user"))
            variables = {"quorate_endpoint_port": outputs["quorate_cluster"]["value"]["endpoint"]["port"]}
        self.fill(hosts, variables)

    def fill(self, hosts, variables):
        """Tells Ansible."""
        self.inventory.add_group("quorate")
        for group in GROUPS.values():
            self.inventory.add_group(group)
            self.inventory.add_child("quorate", group)
        for key, value in variables.items():
            self.inventory.set_variable("quorate", key, value)
        for name, (role, own) in sorted(hosts.items()):
            self.inventory.add_host(name, group=GROUPS[role])
            for key, value in own.items():
                self.inventory.set_variable(name, key, value)
