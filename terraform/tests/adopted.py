#!/usr/bin/env python3
"""The repository of a single master adopts the module, for somebody who has hosts in the places of its machines: the live case
`convert-terraform` makes them with the addresses that are told here. Terraform, the provider and the guide's commands are real, AWS is the stand-in of
against_moto.py.

    adopted.py --look       whether this machine has what it takes; 77 and the reason, if not
    adopted.py SUBNET       a /24; from there:

Prints a line of JSON when a step is done, begins the next one when a line comes, and ends with its input. What else there is to say goes to stderr.

1. The repository as it was is applied: {"master": ADDRESS, "worker": ADDRESS}
2. It adopts the module, as the guide shows it: {"cluster": the output that Quorate reads, "directory", "terraform", "environment", "aws": its port}
3. Later: {"targets": instances that are registered, "changes": what a plan would change}

In each, "failed" lists the checks that did not hold.
"""

import ipaddress
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

import against_moto
from against_moto import CHECKS, DEBIAN, OLD_DEBIAN, SKIPPED, Failed, Folder, Missing, Run, Stopped, Tools

EXAMPLE = "adopt-single-master"


def settle(run, subnet):
    """Moves the repository, as it was and as it is to be, to the hosts' network: a quarter of it for each zone."""
    quarters = [str(each) for each in subnet.subnets(new_prefix=26)]
    places = {"10.30.0.0/16": str(subnet), "10.30.1.0/24": quarters[0], "10.30.2.0/24": quarters[1], "10.30.3.0/24": quarters[2]}
    seen = set()
    for file in (run.directory / "terraform/examples" / EXAMPLE).rglob("*.tf"):
        text = file.read_text()
        for was, place in places.items():
            seen |= {was} if was in text else set()
            text = text.replace(was, place)
        file.write_text(text)
    if seen != set(places):
        raise Failed(f"the repository's networks are not {sorted(places)}")


def told(step, **found):
    step.write(json.dumps({**found, "failed": CHECKS.failed}) + "\n")
    step.flush()
    if not sys.stdin.readline():
        raise Stopped("nobody goes on")


def steps(run, subnet, step):
    settle(run, subnet)
    before = run.folder(f"examples/{EXAMPLE}/before", ami_id=OLD_DEBIAN)
    before.apply()
    old = before.resources()
    told(step, **{name: old[f"aws_instance.k8s_{name}"]["private_ip"] for name in ("master", "worker")})

    folder = Folder(run.tools, run.moto, run.example, f"examples/{EXAMPLE}", {"old_ami_id": OLD_DEBIAN, "ami_id": DEBIAN, "protection": True}, init=False)
    folder.given()
    shutil.copy(before.path / "terraform.tfstate", folder.path / "terraform.tfstate")
    against_moto.shown(run, folder, "guide-adopt")
    cluster = folder.outputs()["quorate_cluster"]
    # Not where programs, homes and temporary files are: Quorate has its own.
    environment = {name: value for name, value in folder.environment.items() if name.startswith(("AWS_", "TF_", "CHECKPOINT_"))}
    told(step, cluster=cluster, directory=str(folder.path), terraform=run.tools.terraform, environment=environment, aws=run.moto.port)

    changes, _ = folder.plan()
    targets = run.targets(cluster["endpoint"]["balancer"])
    told(step, targets=targets, changes={address: each["change"]["actions"] for address, each in changes.items()})


def main():
    root = pathlib.Path(tempfile.mkdtemp(prefix="quorate-adopted-"))
    # Steps are told where stdout was; the checks print to stderr.
    step = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def stopped(number, _):
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stopped)
    run = None
    try:
        tools = Tools(root)
        if sys.argv[1:] == ["--look"]:
            return 0
        subnet = ipaddress.ip_network(sys.argv[1])
        run = Run(tools, EXAMPLE, root)
        steps(run, subnet, step)
        return 0
    except Missing as missing:
        print(f"SKIPPED: {missing}", flush=True)
        return SKIPPED
    except Stopped as why:
        print(why, flush=True)
        return 0
    except Failed as failure:
        print(f"{failure}{run.moto.fault() if run else ''}", flush=True)
        return 1
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        against_moto.end_all()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
