#!/usr/bin/env python3
"""Applies the examples with the real AWS provider, against moto, a stand-in for AWS that runs on this machine's loopback and keeps everything
in memory. Each example: apply; a second plan has no changes; the outputs; what was made, as the stand-in tells it; what the example is there to
show; destroy. One more, `quorate-infra`, has `quorate infra` plan and apply the machines of an example; `guide-new` and `guide-adopt` run what the
guide shows (see guide.py).

    against_moto.py [--only EXAMPLE]... [--jobs N] [--keep]

Needs `terraform` or `tofu`, a directory with the AWS provider, and moto's server; the last three need a `quorate`, which QUORATE_BINARY names. What is missing is said, and the exit code is 77: nothing was
tested. 0: every check held. 1: one did not. The last line counts the checks.

moto carries no traffic and probes nothing. What it cannot tell is not tested here: whether a target turns healthy, how long registering takes,
throttling, capacity. What it forgets of a request is put back by moto_mended.py.

Start at `main`; an example is a function with its name.
"""

import argparse
import concurrent.futures
import contextlib
import glob
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import xml.etree.ElementTree

import guide

TERRAFORM = pathlib.Path(__file__).resolve().parent.parent
REGION = "eu-central-1"
OLD_DEBIAN = "ami-0d11d11d11d11d11d"
DEBIAN = "ami-0d12d12d12d12d12d"

# A command that takes longer hangs: the longest, an apply that waits for its balancer, takes two minutes on two busy processors.
COMMAND_SECONDS_MAX = 900
MOTO_SECONDS_MAX = 60

SKIPPED = 77


class Missing(Exception):
    """What the tests need and this machine has not."""


class Failed(Exception):
    """The example cannot go on."""


class Stopped(Exception):
    """Somebody has had enough."""


class Checks:
    """Counts and prints, also from several threads."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.lock = threading.Lock()

    def say(self, example, text):
        with self.lock:
            print(f"{example}: {text}", flush=True)

    def that(self, example, holds, what, seen=""):
        with self.lock:
            if holds:
                self.passed += 1
                print(f"{example}: ok: {what}", flush=True)
            else:
                self.failed.append(f"{example}: {what}")
                print(f"{example}: FAILED: {what}\n    seen: {seen}", flush=True)


CHECKS = Checks()


# What is on this machine


def terraform_binary():
    named = os.environ.get("QUORATE_TERRAFORM_BIN")
    for name in [named] if named else ["terraform", "tofu"]:
        found = shutil.which(name)
        if found:
            return found
    raise Missing(f"{named or '`terraform` and `tofu`'} not found on the PATH")


def plugin_directory():
    """A directory in the layout of a provider mirror that has hashicorp/aws: TF_PLUGIN_DIR, or where packages and images usually put one."""
    named = os.environ.get("TF_PLUGIN_DIR")
    places = [named] if named else [
        os.path.expanduser("~/.terraform.d/plugins"),
        "/usr/local/share/terraform/plugins",
        "/usr/share/terraform/plugins",
        *sorted(glob.glob("/opt/*")),
    ]
    for place in places:
        # Below the mirror: HOST/hashicorp/aws/VERSION/PLATFORM.
        if glob.glob(os.path.join(place, "*", "hashicorp", "aws", "*", "*")):
            return place
    raise Missing(f"no AWS provider in {', '.join(places)}; TF_PLUGIN_DIR names a directory with one, as `terraform providers mirror` makes it")


def plugins_for(terraform, directory):
    """The provider for that program: OpenTofu looks for the same one under its own registry's name, so it gets a directory of links to it."""
    plugins = plugin_directory()
    version = subprocess.run([terraform, "version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    if not version.stdout.startswith("OpenTofu"):
        return plugins
    for platform in glob.glob(os.path.join(plugins, "*", "hashicorp", "aws", "*", "*")):
        *_, number, name = pathlib.Path(platform).parts
        place = directory / "registry.opentofu.org/hashicorp/aws" / number
        place.mkdir(parents=True, exist_ok=True)
        if not (place / name).is_symlink():
            (place / name).symlink_to(platform)
    return str(directory)


def moto_interpreter():
    """The Python that has moto: this one, or the one that `moto_server` on the PATH begins with."""
    named = os.environ.get("QUORATE_MOTO_PYTHON")
    candidates = [named] if named else [sys.executable]
    if not named and (server := shutil.which("moto_server")):
        with open(server, "rb") as file:
            first = file.readline().decode(errors="replace").strip()
        candidates += [first[2:]] if first.startswith("#!") and " " not in first else []
    for candidate in candidates:
        with contextlib.suppress(OSError):
            if subprocess.run([candidate, "-c", "import moto.server"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                return candidate
    raise Missing(f"no Python with moto's server (looked at {', '.join(candidates)}); `pip install 'moto[ec2,elbv2,iam,route53,server]==5.2.1'` brings it")


# Processes


RUNNING = set()
RUNNING_LOCK = threading.Lock()


def start(command, **options):
    """Starts a process in a group of its own, so that it ends with everything it started."""
    with RUNNING_LOCK:
        process = subprocess.Popen(command, **{"start_new_session": True, "stdin": subprocess.DEVNULL, **options})
        RUNNING.add(process)
    return process


def end(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            break
    # Its children may outlive it by a moment.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with RUNNING_LOCK:
        RUNNING.discard(process)


def end_all():
    with RUNNING_LOCK:
        left = list(RUNNING)
    for process in left:
        end(process)


class Moto:
    """One server, one example: nothing of one is in the way of another."""

    def __init__(self, interpreter, directory):
        self.directory = directory
        images = directory / "images.json"
        images.write_text(json.dumps([image(OLD_DEBIAN, "debian-11-amd64-20250101-1"), image(DEBIAN, "debian-12-amd64-20260101-1")]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = open(directory / "moto.log", "wb")
        self.process = start(
            [interpreter, str(TERRAFORM / "tests/moto_mended.py"), "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=self.log,
            stderr=self.log,
            env={
                **os.environ,
                "MOTO_AMIS_PATH": str(images),
                "MOTO_ENABLE_AMI_VALIDATION": "true",
                "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
                "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
            },
        )
        deadline = time.monotonic() + MOTO_SECONDS_MAX
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"moto does not answer: {(directory / 'moto.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def fault(self):
        """The last thing in moto's log that went wrong, if anything did."""
        _, found, last = (self.directory / "moto.log").read_text(errors="replace").rpartition("Traceback")
        return f"\nmoto: {found}{last[:3000]}" if found else ""

    def close(self):
        end(self.process)
        self.log.close()

    def ask(self, service, version, action, **parameters):
        """One call of the query API; the answer without namespaces, or the error's code. moto looks at the credential's scope, not at the signature."""
        body = urllib.parse.urlencode({"Action": action, "Version": version, **parameters})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/", body, {
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": f"AWS4-HMAC-SHA256 Credential=testing/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0",
        })
        answer = connection.getresponse()
        root = xml.etree.ElementTree.fromstring(answer.read())
        connection.close()
        for element in root.iter():
            element.tag = element.tag.split("}")[-1]
        return answer.status, root

    def ec2(self, action, **parameters):
        return self.ask("ec2", "2016-11-15", action, **parameters)

    def elb(self, action, **parameters):
        return self.ask("elasticloadbalancing", "2015-12-01", action, **parameters)


def image(identity, name):
    # Without a date: moto reads dates of the file once for each account, and fails the second time.
    return {
        "ami_id": identity, "name": name, "description": name, "owner_id": "136693071363", "public": True,
        "virtualization_type": "hvm", "architecture": "x86_64", "state": "available", "platform": None, "image_type": "machine",
        "hypervisor": "xen", "root_device_name": "/dev/xvda", "root_device_type": "ebs", "sriov": "simple",
    }


class Folder:
    """A configuration in a copy of the tree, with its own state. Only this machine's loopback is ever spoken to."""

    def __init__(self, tools, moto, example, path, variables=None, init=True):
        self.tools, self.moto, self.example = tools, moto, example
        self.path = moto.directory / "terraform" / path
        self.variables = dict(variables or {})
        home = moto.directory / "home"
        home.mkdir(exist_ok=True)
        (home / "terraformrc").touch()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(moto.directory),
            # No credentials, profile or endpoint of the person who runs this.
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            # The provider would try 25 times, for minutes, what the stand-in cannot do.
            "AWS_MAX_ATTEMPTS": "3",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{moto.port}",
            "NO_PROXY": "127.0.0.1",
            "TF_CLI_CONFIG_FILE": str(home / "terraformrc"),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }
        if init:
            self.terraform("init", f"-plugin-dir={tools.plugins}")

    def try_terraform(self, *arguments):
        began = time.monotonic()
        process = start([self.tools.terraform, *arguments], cwd=self.path, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate(timeout=COMMAND_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            end(process)
            raise Failed(f"`terraform {' '.join(arguments)}` did not end within {COMMAND_SECONDS_MAX} s")
        finally:
            end(process)
        CHECKS.say(self.example, f"terraform {arguments[0]} took {time.monotonic() - began:.0f} s")
        return process.returncode, output

    def terraform(self, *arguments):
        code, output = self.try_terraform(*arguments)
        if code != 0:
            raise Failed(f"`terraform {' '.join(arguments)}` ended with {code}:\n{output[-6000:]}")
        return output

    def given(self, **more):
        """Variables as JSON in a file, as they come from Quorate and from people's pipelines."""
        (self.path / "given.auto.tfvars.json").write_text(json.dumps({**self.variables, **more}))
        return ["-input=false", "-no-color"]

    def apply(self, **more):
        return self.terraform("apply", "-auto-approve", *self.given(**more))

    def plan(self, **more):
        """What a plan would do: {address: (actions, before, after)} of what is not left alone, and the moves."""
        code, output = self.try_terraform("plan", "-out=saved.plan", "-detailed-exitcode", *self.given(**more))
        if code not in (0, 2):
            raise Failed(f"`terraform plan` ended with {code}:\n{output[-6000:]}")
        plan = json.loads(self.terraform("show", "-json", "saved.plan"))
        changes = {each["address"]: each for each in plan.get("resource_changes", []) if each["mode"] == "managed"}
        return {address: each for address, each in changes.items() if each["change"]["actions"] != ["no-op"]}, changes

    def outputs(self):
        return {name: each["value"] for name, each in json.loads(self.terraform("output", "-json")).items()}

    def resources(self):
        """{address: values} of what the state holds, modules included."""
        found, modules = {}, [json.loads(self.terraform("show", "-json"))["values"]["root_module"]]
        while modules:
            module = modules.pop()
            modules.extend(module.get("child_modules", []))
            found.update({each["address"]: each["values"] for each in module.get("resources", [])})
        return found

    def destroy(self):
        """As a person would: what protects is lifted first."""
        if "protection" in self.variables:
            self.apply(protection=False)
        self.terraform("destroy", "-auto-approve", *self.given(protection=False) if "protection" in self.variables else self.given())


class Run:
    """What each example does alike."""

    def __init__(self, tools, example, directory):
        self.tools, self.example, self.directory = tools, example, directory
        shutil.copytree(TERRAFORM, directory / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "__pycache__"))
        self.moto = Moto(tools.moto, directory)

    def that(self, holds, what, seen=""):
        CHECKS.that(self.example, holds, what, seen)

    def folder(self, path, **variables):
        return Folder(self.tools, self.moto, self.example, path, variables)

    def programs(self, environment):
        """That environment with the programs that pages and Quorate name. The machines are nowhere: whoever asks for one is told at once that it
        does not answer."""
        programs = self.directory / "programs"
        programs.mkdir()
        (programs / "ssh").write_text("#!/bin/sh\necho 'nobody is there' >&2\nexit 255\n")
        (programs / "ssh").chmod(0o755)
        (programs / "terraform").symlink_to(self.tools.terraform)
        (programs / "quorate").symlink_to(os.path.abspath(self.tools.quorate))
        return {
            **environment,
            "PATH": f"{programs}:{environment['PATH']}",
            "QUORATE_TERRAFORM": self.tools.terraform,
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_RUNTIME_DIR": str(self.directory),
        }

    def no_changes(self, folder):
        changes, _ = folder.plan()
        self.that(not changes, "a second plan has no changes", {address: each["change"]["actions"] for address, each in changes.items()})

    def contract(self, folder):
        """The output that Quorate reads is what was recorded for its version."""
        cluster = folder.outputs()["quorate_cluster"]
        recorded = json.loads((TERRAFORM / "tests/contract" / f"v{cluster['version']}.json").read_text())
        self.that(shape(cluster) <= shape(recorded), f"quorate_cluster has the shape recorded for version {cluster['version']}", shape(cluster) - shape(recorded))
        needed = {path for path in shape(recorded) if "[]" not in path and "addresses." not in path and not path.endswith("=null")}
        self.that({path.split("=")[0] for path in needed} <= {path.split("=")[0] for path in shape(cluster)}, "no key of quorate_cluster is missing", needed - shape(cluster))
        return cluster

    def balancer(self, cluster, public=False):
        """The balancer as the stand-in tells it."""
        balancer = cluster["endpoint"]["balancer"]
        _, answer = self.moto.elb("DescribeLoadBalancers", **{"LoadBalancerArns.member.1": balancer["arn"]})
        self.that(answer.findtext(".//Scheme") == ("internet-facing" if public else "internal"), f"the balancer is {'internet-facing' if public else 'internal'}", answer.findtext(".//Scheme"))
        self.that(len(answer.findall(".//SecurityGroups/member")) == 1, "the balancer has a security group of its own")
        self.that(len(answer.findall(".//AvailabilityZones/member")) == 3, "the balancer stands in three zones")
        _, answer = self.moto.elb("DescribeLoadBalancerAttributes", LoadBalancerArn=balancer["arn"])
        attributes = {each.findtext("Key"): each.findtext("Value") for each in answer.findall(".//Attributes/member")}
        self.that(attributes.get("load_balancing.cross_zone.enabled") == "true", "it balances across zones", attributes)
        self.that(attributes.get("deletion_protection.enabled") == "true", "it is protected from deletion", attributes)
        _, answer = self.moto.elb("DescribeTargetGroupAttributes", TargetGroupArn=balancer["target_group_arn"])
        attributes = {each.findtext("Key"): each.findtext("Value") for each in answer.findall(".//Attributes/member")}
        expected = {
            "preserve_client_ip.enabled": "false",
            "deregistration_delay.timeout_seconds": "90",
            "deregistration_delay.connection_termination.enabled": "true",
            "target_health_state.unhealthy.connection_termination.enabled": "true",
        }
        self.that(expected.items() <= attributes.items(), "client addresses are not preserved; connections end after draining and with a dead target", attributes)
        _, answer = self.moto.elb("DescribeTargetGroups", **{"TargetGroupArns.member.1": balancer["target_group_arn"]})
        seen = {key: answer.findtext(f".//{key}") for key in ("HealthCheckProtocol", "HealthCheckPath", "HealthCheckIntervalSeconds", "HealthyThresholdCount", "UnhealthyThresholdCount", "TargetType", "Protocol", "Port")}
        self.that(list(seen.values()) == ["HTTPS", "/readyz", "5", "2", "2", "instance", "TCP", "6443"], "the health check asks /readyz over HTTPS at the shortest interval and thresholds", seen)
        self.that(self.targets(balancer) == [], "Terraform registered no target", self.targets(balancer))

    def targets(self, balancer):
        _, answer = self.moto.elb("DescribeTargetHealth", TargetGroupArn=balancer["target_group_arn"])
        return [each.findtext(".//Id") for each in answer.findall(".//TargetHealthDescriptions/member")]

    def instance(self, identity):
        _, answer = self.moto.ec2("DescribeInstances", **{"InstanceId.1": identity})
        return answer.find(".//instancesSet/item")

    def groups(self, identity):
        return {each.findtext("groupId") for each in self.instance(identity).findall("groupSet/item")}

    def gone(self):
        """After a destroy nothing is left."""
        _, answer = self.moto.ec2("DescribeInstances")
        left = [each.findtext("instanceId") for each in answer.findall(".//instancesSet/item") if each.findtext("instanceState/name") != "terminated"]
        _, balancers = self.moto.elb("DescribeLoadBalancers")
        _, volumes = self.moto.ec2("DescribeVolumes")
        left += [each.text for each in balancers.findall(".//LoadBalancerArn")]
        left += [each.findtext("volumeId") for each in volumes.findall(".//volumeSet/item")]
        self.that(not left, "after destroy no machine, volume or balancer is left", left)


def shape(value, path=""):
    """Every key's path with its type; elements of a list count as one."""
    if isinstance(value, dict):
        return {f"{path}{{}}"}.union(*(shape(each, f"{path}.{key}") for key, each in value.items()))
    if isinstance(value, list):
        return {f"{path}[]"}.union(*(shape(each, f"{path}[]") for each in value))
    return {f"{path}={'null' if value is None else type(value).__name__}"}


# The examples


def complete(run):
    folder = run.folder("examples/complete", protection=True, operator_cidrs={"office": "203.0.113.0/24"})
    folder.apply()
    run.no_changes(folder)
    cluster = run.contract(folder)
    run.balancer(cluster)
    masters = {each["name"]: each for each in cluster["masters"]}
    run.that(list(masters) == ["cp-1", "cp-2", "cp-3"], "three masters, by name", list(masters))
    run.that(len({each["zone"] for each in masters.values()}) == 3, "each in a zone of its own", masters)
    run.that([each["name"] for each in cluster["workers"]] == ["w-1", "w-2"], "two workers", cluster["workers"])

    state = folder.resources()
    for name in masters:
        values = state[f'module.control_plane.aws_instance.k8s_master["{name}"]']
        options = values["metadata_options"][0]
        run.that((options["http_tokens"], options["http_put_response_hop_limit"]) == ("required", 1), f"{name}: IMDSv2, one hop", options)
        run.that(values["root_block_device"][0]["encrypted"], f"{name}: the root volume is encrypted")
        run.that(values["public_ip"] == "", f"{name}: no public address", values["public_ip"])
        run.that(values["ami"] == DEBIAN, f"{name}: Debian 12", values["ami"])
        volume = state[f'module.control_plane.aws_ebs_volume.etcd["{name}"]']
        run.that((volume["type"], volume["encrypted"], volume["availability_zone"]) == ("gp3", True, masters[name]["zone"]), f"{name}: an encrypted gp3 volume for etcd in its zone", volume)
    closed(run, state)

    override = folder.path / "other_override.tf"
    others = {"ami_id": OLD_DEBIAN, "user_data": "#!/bin/sh\n", "key_name": "another", "kms_key_id": f"arn:aws:kms:{REGION}:123456789012:key/another"}
    override.write_text("module \"control_plane\" {\n" + "".join(f"  {name} = {json.dumps(value)}\n" for name, value in others.items()) + "}\n")
    changes, _ = folder.plan()
    run.that(not changes, "another image, user data, key pair and KMS key change no machine and no volume", {address: each["change"]["actions"] for address, each in changes.items()})
    override.unlink()

    victim = masters["cp-2"]
    status, answer = run.moto.ec2("TerminateInstances", **{"InstanceId.1": victim["instance_id"]})
    run.that(status == 400 and answer.findtext(".//Code") == "OperationNotPermitted", "a master is protected from termination", answer.findtext(".//Code"))
    run.moto.ec2("ModifyInstanceAttribute", **{"InstanceId": victim["instance_id"], "DisableApiTermination.Value": "false"})
    run.moto.ec2("TerminateInstances", **{"InstanceId.1": victim["instance_id"]})
    changes, _ = folder.plan()
    seen = {address: each["change"]["actions"] for address, each in changes.items()}
    run.that(
        seen == {
            'module.control_plane.aws_instance.k8s_master["cp-2"]': ["create"],
            'module.control_plane.aws_volume_attachment.etcd["cp-2"]': ["create"],
        },
        "terminated from outside, exactly this machine is to be made again, with the volume it had",
        seen,
    )
    folder.apply()
    again = {each["name"]: each for each in folder.outputs()["quorate_cluster"]["masters"]}["cp-2"]
    run.that(again["instance_id"] != victim["instance_id"] and again["etcd_volume_id"] == victim["etcd_volume_id"], "made again, etcd's volume is the old one", again)
    run.that(again["zone"] == victim["zone"], "and the zone", again)
    run.no_changes(folder)
    folder.destroy()
    run.gone()


def closed(run, state):
    """etcd's ports and the kubelets' are open to masters only, and no rule admits everybody."""
    ids = {state[f"module.control_plane.aws_security_group.{name}"]["id"]: name for name in ("balancer", "master", "worker", "node")}
    _, answer = run.moto.ec2("DescribeSecurityGroups", **{f"GroupId.{number}": identity for number, identity in enumerate(ids, 1)})
    admitted = set()
    for group in answer.findall(".//securityGroupInfo/item"):
        for rule in group.findall("ipPermissions/item"):
            who = [ids[each.findtext("groupId")] for each in rule.findall("groups/item")] + [each.findtext("cidrIp") for each in rule.findall("ipRanges/item")]
            admitted |= {(ids[group.findtext("groupId")], rule.findtext("ipProtocol"), rule.findtext("fromPort"), rule.findtext("toPort"), each) for each in who}
    expected = {
        ("balancer", "tcp", "6443", "6443", "node"),
        ("balancer", "tcp", "6443", "6443", "203.0.113.0/24"),
        ("master", "tcp", "6443", "6443", "balancer"),
        ("master", "tcp", "6443", "6443", "node"),
        ("master", "tcp", "2379", "2379", "master"),
        ("master", "tcp", "2380", "2380", "master"),
        ("node", "tcp", "10250", "10250", "master"),
        ("node", "udp", "8472", "8472", "node"),
        ("node", "tcp", "22", "22", "203.0.113.0/24"),
    }
    run.that(admitted == expected, "what is admitted is the port matrix and nothing else", admitted ^ expected)


def existing_vpc(run):
    vpc = run.folder("tests/vpc")
    vpc.apply()
    there = vpc.outputs()
    zones = sorted(there["private_subnet_ids"])
    variables = {
        **there,
        "protection": True,
        "endpoint_host": "api.prod.example.com",
        "api_cidrs": {"office": "203.0.113.0/24"},
    }
    folder = run.folder("examples/existing-vpc", **variables)

    swapped = {zones[0]: there["private_subnet_ids"][zones[1]], zones[1]: there["private_subnet_ids"][zones[0]], zones[2]: there["private_subnet_ids"][zones[2]]}
    code, output = folder.try_terraform("plan", *folder.given(private_subnet_ids=swapped))
    run.that(code == 1 and "was said to lie in" in output, "a subnet that lies in another zone than was said is refused", output[-500:])
    code, output = folder.try_terraform("plan", *folder.given(api_cidrs={"all": "0.0.0.0/0"}))
    run.that(code == 1 and "Everything (/0) is no list" in output, "an endpoint for the whole internet is refused", output[-500:])

    folder.apply()
    run.no_changes(folder)
    cluster = run.contract(folder)
    run.balancer(cluster, public=True)
    run.that(sorted(cluster["endpoint"]["balancer"]["addresses"]) == zones, "the balancer has a fixed address in each zone", cluster["endpoint"]["balancer"])
    made = {address.split(".")[2].split("[")[0] for address in folder.resources() if address.startswith("module.network.aws_")}
    run.that(not made, "nothing of the network was made", made)
    folder.destroy()
    run.gone()
    _, answer = run.moto.ec2("DescribeVpcs", **{"VpcId.1": there["vpc_id"]})
    run.that(answer.findtext(".//vpcId") == there["vpc_id"], "the VPC is still there")
    vpc.destroy()


def adopt_single_master(run):
    before = run.folder("examples/adopt-single-master/before", ami_id=OLD_DEBIAN)
    before.apply()
    run.no_changes(before)
    old = before.resources()
    master, worker = old["aws_instance.k8s_master"], old["aws_instance.k8s_worker"]

    # The reader changes files in place; here the new ones get the old ones' state.
    folder = run.folder("examples/adopt-single-master", old_ami_id=OLD_DEBIAN, ami_id=DEBIAN, protection=True)
    shutil.copy(before.path / "terraform.tfstate", folder.path / "terraform.tfstate")
    changes, everything = folder.plan()
    actions = {address: each["change"]["actions"] for address, each in changes.items()}

    made = sorted(address for address, what in actions.items() if what == ["create"] and everything[address]["type"] == "aws_instance")
    run.that(made == [f'module.control_plane.aws_instance.k8s_master["cp-{number}"]' for number in (2, 3)], "two machines are made, both masters", made)
    ended = {address: what for address, what in actions.items() if "delete" in what}
    run.that(not ended, "nothing is destroyed or replaced", ended)

    address = 'module.control_plane.aws_instance.k8s_master["k8s-master"]'
    run.that(everything[address].get("previous_address") == "aws_instance.k8s_master", "the old master moves into the module", everything[address].get("previous_address"))
    for what, address in (("master", address), ("worker", "aws_instance.k8s_worker")):
        differs = different(everything[address]["change"])
        allowed = {"tags", "tags_all", "vpc_security_group_ids"} if what == "master" else {"vpc_security_group_ids"}
        run.that(differs <= allowed, f"of the old {what} only tags and groups change", differs)
    touched = [address for address in actions if address.startswith(("aws_security_group.", "aws_vpc.", "aws_subnet.public", "aws_route_table.public", "aws_internet_gateway."))]
    run.that(not touched, "the old network and the old rules, those for 6443 among them, are left alone", touched)

    folder.apply()
    run.no_changes(folder)
    cluster = run.contract(folder)
    run.balancer(cluster)
    adopted = next(each for each in cluster["masters"] if each["name"] == "k8s-master")
    run.that((adopted["instance_id"], adopted["address"], adopted["adopted"], adopted["etcd_volume_id"]) == (master["id"], master["private_ip"], True, None), "the old master is the machine that it was", adopted)
    run.that(len({each["zone"] for each in cluster["masters"]}) == 3, "the three stand in three zones", cluster["masters"])
    run.that([(each["name"], each["address"]) for each in cluster["workers"]] == [("k8s-worker", worker["private_ip"])], "the old worker is told of", cluster["workers"])
    new = folder.resources()
    now = new['module.control_plane.aws_instance.k8s_master["k8s-master"]']
    kept = ("ami", "instance_type", "subnet_id", "user_data", "metadata_options", "root_block_device", "iam_instance_profile", "disable_api_termination", "key_name", "public_ip")
    for disks in (now["root_block_device"], master["root_block_device"]):
        for disk in disks:
            # Not of the disk: the provider's default tags, which it takes for the disk's own as soon as nobody says anything of it.
            disk.pop("tags")
    run.that(all(now[key] == master[key] for key in kept), "it keeps image, type, subnet, user data, metadata options, disks, profile and key", {key: (master[key], now[key]) for key in kept if now[key] != master[key]})
    run.that(now["tags"]["Name"] == "k8s-master", "and its name", now["tags"])
    for what, was in (("master", master), ("worker", worker)):
        groups = run.groups(was["id"])
        run.that(set(was["vpc_security_group_ids"]) < groups and len(groups) == len(was["vpc_security_group_ids"]) + 2, f"the old {what} has its own groups and two more", groups)

    # A type that is not what the machine has would stop it: the plan must not hide that.
    compute = folder.path / "compute.tf"
    text = compute.read_text()
    compute.write_text(text.replace('"t3.medium"', '"t3.large"', 1))
    changes, _ = folder.plan()
    run.that(any("instance_type" in different(each["change"]) for each in changes.values()), "another instance type for the adopted master shows in the plan", list(changes))
    compute.write_text(text)
    folder.destroy()
    run.gone()


def different(change):
    """Top-level attributes that are to change, known or not."""
    before, after, unknown = change["before"] or {}, change["after"] or {}, change["after_unknown"] or {}
    return {key for key in {*before, *after, *unknown} if before.get(key) != after.get(key)}


def five_masters(run):
    folder = run.folder("examples/five-masters", protection=True)
    folder.apply()
    run.no_changes(folder)
    cluster = run.contract(folder)
    run.balancer(cluster)
    zones = [each["zone"][-1] for each in cluster["masters"]]
    run.that(zones == ["a", "b", "c", "a", "b"], "five masters over three zones, by their numbers", zones)
    addresses = cluster["endpoint"]["balancer"]["addresses"]
    run.that(sorted(addresses.values()) == ["10.20.0.250", "10.20.16.250", "10.20.32.250"], "the balancer's addresses are those that were asked for", addresses)
    folder.destroy()
    run.gone()


PAUSE = """
resource "terraform_data" "pause" {
  provisioner "local-exec" {
    command = "exec sleep SECONDS"
  }
}

resource "terraform_data" "after" {
  depends_on = [terraform_data.pause]
}
"""


def interrupted(process, words):
    """Presses Ctrl-C when it says so, and gives all that it says."""
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            process.send_signal(signal.SIGINT)
            words = "\0"
    return process.wait(timeout=COMMAND_SECONDS_MAX), "".join(said)


def quorate_infra(run):
    folder = run.folder("examples/complete", protection=False)
    folder.given()
    (folder.path / "demo.yaml").write_text("apiVersion: quorate/v1\nname: demo\nprovider: { kind: terraform, user: admin }\n")
    environment = run.programs(folder.environment)

    def begin(*arguments):
        return start([run.tools.quorate, "infra", *arguments], cwd=folder.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def quorate(*arguments):
        began = time.monotonic()
        process = begin(*arguments)
        try:
            output, _ = process.communicate(timeout=COMMAND_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Failed(f"`quorate infra {' '.join(arguments)}` did not end within {COMMAND_SECONDS_MAX} s")
        finally:
            end(process)
        CHECKS.say(run.example, f"quorate infra {arguments[0]} took {time.monotonic() - began:.0f} s")
        return process.returncode, output

    code, output = quorate("plan", "-f", "demo.yaml", "--out", "saved")
    run.that(code == 0 and 'aws_instance.k8s_master["cp-3"]' in output and "no cluster yet: 0 errors" in output, "the first plan is shown and saved", output[-2000:])
    run.that((folder.path / "saved").stat().st_mode & 0o777 == 0o600, "the saved plan is its owner's alone")
    code, output = quorate("apply", "saved", "--yes")
    run.that(code == 0 and "Applied in" in output, "it is applied", output[-3000:])
    run.that(not (folder.path / "saved").exists(), "a plan that was applied is gone")
    cluster = folder.outputs()["quorate_cluster"]
    run.that(len(cluster["masters"]) == 3, "three masters are there", cluster)
    code, output = quorate("plan", "-f", "demo.yaml")
    run.that(code == 0 and "nothing to do" in output, "planned again, there is nothing to do", output[-3000:])

    # What a provider makes of the end is its own matter; Terraform's own resource knows no other than this.
    pause = folder.path / "pause.tf"
    pause.write_text(PAUSE.replace("SECONDS", "600"))
    process = begin("apply", "-f", "demo.yaml", "--yes")
    try:
        code, output = interrupted(process, "Provisioning with")
    finally:
        end(process)
    run.that(code == 130 and "was asked to end, and is waited for" in output and "what is left" in output, "Ctrl-C ends Terraform at what it is at", output[-3000:])
    known = set(folder.resources())
    run.that("terraform_data.pause" in known and "terraform_data.after" not in known, "what was begun is in the state, and nothing was begun after", known)
    pause.write_text(PAUSE.replace("SECONDS", "0"))
    code, output = quorate("plan", "-f", "demo.yaml", "--out", "saved")
    run.that(code == 0 and "-/+ terraform_data.pause" in output and "+ terraform_data.after" in output and "2 resources to make" in output, "planned again, what is left is to be made", output[-3000:])
    code, output = quorate("apply", "saved", "--yes")
    run.that(code == 0 and "Applied in" in output, "and it is made", output[-3000:])

    main = folder.path / "main.tf"
    text = main.read_text()
    for what, changed, finding in (
        ("a master is exchanged", 'masters = { cp-1 = {}, cp-3 = {}, cp-4 = { zone = "eu-central-1b" } }', "error[master-destroyed]"),
        ("all masters are stopped", 'master_count = 3\n  master_instance_type = "t3.xlarge"', "error[masters-together]"),
    ):
        main.write_text(text.replace("master_count = 3", changed))
        for verb in (("plan", "-f", "demo.yaml", "--out", "saved"), ("apply", "-f", "demo.yaml", "--yes")):
            code, output = quorate(*verb)
            run.that(code == 3 and finding in output, f"{what}: {verb[0]} is refused while nobody can ask etcd", output[-3000:])
        run.that(not (folder.path / "saved").exists(), f"{what}: nothing is saved")
    main.write_text(text.replace("worker_count = 2", "worker_count = 3"))
    code, output = quorate("plan", "-f", "demo.yaml", "-o", "json")
    told = json.loads(output[output.index("{\n"):output.rindex("}") + 1])
    made = [each["address"] for each in told["changes"] if each["action"] == "create" and "k8s_worker" in each["address"]]
    run.that(code == 0 and len(made) == 1 and told["members"] == {"seen": "unknown"}, "a worker more costs the control plane nothing", output[-3000:])
    main.write_text(text)
    masters = [each["instance_id"] for each in cluster["masters"]]
    run.that(all(run.instance(each).findtext("instanceState/name") == "running" for each in masters), "the masters run as before", masters)

    left = [str(path) for path in (run.directory / "state").rglob("private-*")]
    run.that(not left, "no plan of Terraform's is left on the disk", left)
    run.that("PRIVATE KEY" not in (folder.path / "terraform.tfstate").read_text(), "no key is in the state")
    folder.destroy()
    run.gone()


def shown(run, folder, story):
    """Runs what a story of the guide shows."""
    environment = run.programs(guide.offline(folder))

    def shell(words, typed):
        process = start(words, cwd=folder.path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate(typed, timeout=COMMAND_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Failed(f"`{' '.join(words)}` did not end within {COMMAND_SECONDS_MAX} s")
        finally:
            end(process)
        return process.returncode, output

    guide.run("aws.md", story, folder.path, shell, run.that)


def guide_new(run):
    """The guide's way from an account to machines, as the page shows it."""
    folder = Folder(run.tools, run.moto, run.example, "examples/complete", init=False)
    run.moto.ec2("CreateKeyPair", KeyName="operators")
    shown(run, folder, "guide-new")
    run.gone()


def guide_adopt(run):
    """The guide's way from a single master, as the page shows it, up to the machines."""
    before = run.folder("examples/adopt-single-master/before", ami_id=OLD_DEBIAN)
    before.apply()
    folder = Folder(run.tools, run.moto, run.example, "examples/adopt-single-master", {"old_ami_id": OLD_DEBIAN, "ami_id": DEBIAN, "protection": True}, init=False)
    folder.given()
    shutil.copy(before.path / "terraform.tfstate", folder.path / "terraform.tfstate")
    shown(run, folder, "guide-adopt")
    run.no_changes(folder)
    folder.destroy()
    run.gone()


EXAMPLES = {
    "complete": complete,
    "adopt-single-master": adopt_single_master,
    "existing-vpc": existing_vpc,
    "five-masters": five_masters,
    "quorate-infra": quorate_infra,
    "guide-new": guide_new,
    "guide-adopt": guide_adopt,
}

# What runs `quorate` too.
WITH_QUORATE = {"quorate-infra", "guide-new", "guide-adopt"}


class Tools:
    def __init__(self, root):
        self.terraform = terraform_binary()
        self.plugins = plugins_for(self.terraform, root / "plugins")
        self.moto = moto_interpreter()
        self.quorate = os.environ.get("QUORATE_BINARY")


def one(tools, name, root):
    began = time.monotonic()
    directory = root / name
    directory.mkdir()
    run = None
    try:
        run = Run(tools, name, directory)
        EXAMPLES[name](run)
    except Failed as failure:
        CHECKS.that(name, False, "runs to its end", f"{failure}{run.moto.fault() if run else ''}")
    finally:
        if run:
            run.moto.close()
    CHECKS.say(name, f"took {time.monotonic() - began:.0f} s")


def main():
    parser = argparse.ArgumentParser(description="Applies the examples against a stand-in for AWS on this machine.")
    parser.add_argument("--only", action="append", choices=EXAMPLES, metavar="EXAMPLE", help=f"only this one, of {', '.join(EXAMPLES)}; can be given more than once")
    parser.add_argument("--jobs", type=int, default=2, help="examples side by side (2)")
    parser.add_argument("--keep", action="store_true", help="leave the working directories, and say where they are")
    options = parser.parse_args()
    examples = options.only or list(EXAMPLES)

    root = pathlib.Path(tempfile.mkdtemp(prefix="quorate-moto-"))
    try:
        tools = Tools(root)
    except Missing as missing:
        shutil.rmtree(root)
        print(f"SKIPPED: Terraform examples ({', '.join(examples)}): {missing}", flush=True)
        print(f"0 passed, 0 failed, {len(examples)} skipped", flush=True)
        return SKIPPED
    skipped = 0
    if tools.quorate is None:
        without = [each for each in examples if each in WITH_QUORATE]
        for each in without:
            print(f"SKIPPED: {each}: QUORATE_BINARY names no quorate", flush=True)
        skipped = len(without)
        examples = [each for each in examples if each not in WITH_QUORATE]
        if not examples:
            # Asked for alone, nothing was tested.
            print(f"0 passed, 0 failed, {skipped} skipped", flush=True)
            shutil.rmtree(root)
            return SKIPPED
    print(f"terraform: {tools.terraform}; providers: {tools.plugins}; moto: {tools.moto}", flush=True)

    def stopped(number, _):
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    # Also Ctrl-C, which Python ignores where a shell started it in the background.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stopped)
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, options.jobs))
    try:
        work = {pool.submit(one, tools, name, root): name for name in examples}
        for done in concurrent.futures.as_completed(work):
            error = done.exception()
            if error:
                CHECKS.that(work[done], False, "runs to its end", repr(error))
    except Stopped as why:
        print(f"{why}; cleaning up", flush=True)
        return 130
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        # Nothing is left: what was not begun is dropped, what runs is ended (which ends its thread), and moto held everything in memory.
        pool.shutdown(wait=False, cancel_futures=True)
        end_all()
        pool.shutdown(wait=True)
        end_all()
        if options.keep:
            print(f"kept: {root}", flush=True)
        else:
            shutil.rmtree(root, ignore_errors=True)

    for failure in CHECKS.failed:
        print(f"FAILED: {failure}")
    print(f"{CHECKS.passed} passed, {len(CHECKS.failed)} failed, {skipped} skipped", flush=True)
    return 1 if CHECKS.failed or CHECKS.passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
