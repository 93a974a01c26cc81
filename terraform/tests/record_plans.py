#!/usr/bin/env python3
"""Records plans of the examples as `terraform show -json` writes them, for the tests of `quorate lint terraform`: made with the real AWS provider
against moto, and cut down to what a reader of plans could look at. It writes crates/quorate-infra/tests/plans/*.json anew.

    record_plans.py

Needs what against_moto.py needs. Run it by hand when the modules or the provider change; the lint's tests run over what lies there.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import against_moto

PLANS = against_moto.TERRAFORM.parent / "crates/quorate-infra/tests/plans"

# Of a resource, what a reader of plans could look at. The rest is megabytes.
KEPT = {
    "id", "arn", "name", "tags", "ami", "instance_type", "instance_id", "private_ip", "availability_zone", "disable_api_termination", "user_data",
    "user_data_base64", "ebs_optimized", "vpc_security_group_ids", "from_port", "to_port", "ip_protocol", "cidr_ipv4", "referenced_security_group_id",
    "security_group_id", "ingress", "port", "protocol", "load_balancer_arn", "load_balancer_type", "target_group_arn", "target_id", "volume_id", "size", "state",
}
TYPES = {
    "aws_instance", "aws_security_group", "aws_vpc_security_group_ingress_rule", "aws_lb", "aws_lb_listener", "aws_lb_target_group",
    "aws_lb_target_group_attachment", "aws_ebs_volume", "aws_volume_attachment",
}
MASTERS = 'module.control_plane.aws_instance.k8s_master["{}"]'
ATTACHMENT = """
resource "aws_lb_target_group_attachment" "api" {
  for_each         = toset(["cp-1", "cp-2", "cp-3"])
  target_group_arn = module.control_plane.target_group_arn
  target_id        = one([for master in module.control_plane.masters : master.instance_id if master.name == each.key])
}
"""


def cut(values):
    return None if values is None else {key: value for key, value in values.items() if key in KEPT and value not in (None, [], {}, "")}


def cut_down(plan):
    """The plan without what nobody looks at: values, other types, and rules that stay."""
    changes = []
    for each in plan.get("resource_changes", []):
        change = each["change"]
        stays = change["actions"] in (["no-op"], ["read"])
        if each["type"] not in TYPES or each["mode"] != "managed" or (stays and each["type"] not in ("aws_instance", "aws_lb", "aws_lb_listener", "aws_lb_target_group")):
            continue
        changes.append({key: each[key] for key in ("address", "previous_address", "mode", "type", "name", "index", "provider_name", "action_reason") if key in each} | {
            "change": {"actions": change["actions"], "before": cut(change["before"]), "after": cut(change["after"])},
        })
    return {key: plan[key] for key in ("format_version", "terraform_version") if key in plan} | {
        "resource_changes": changes, "applyable": plan.get("applyable"), "complete": plan.get("complete"), "errored": plan.get("errored"),
    }


def lines(plan):
    """A line for each resource."""
    top = {key: value for key, value in plan.items() if key != "resource_changes"}
    rows = ",\n".join(json.dumps(each, sort_keys=True) for each in plan["resource_changes"])
    return f'{json.dumps(top, sort_keys=True)[:-1]}, "resource_changes": [\n{rows}\n]}}\n'


def record(folder, name, *arguments, main=None, **variables):
    original = (folder.path / "main.tf").read_text() if main else None
    try:
        if main:
            changed = main(original)
            if changed == original:
                raise against_moto.Failed(f"{name}: nothing to replace in main.tf")
            (folder.path / "main.tf").write_text(changed)
        folder.terraform("plan", "-out=saved.plan", *arguments, *folder.given(**variables))
        plan = json.loads(folder.terraform("show", "-json", "saved.plan"))
    finally:
        if main:
            (folder.path / "main.tf").write_text(original)
    path = PLANS / f"{name}.json"
    path.write_text(lines(cut_down(plan)))
    print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


def named(masters):
    return lambda text: text.replace("master_count = 3", f"masters = {{ {masters} }}")


def complete(run):
    folder = run.folder("examples/complete", protection=True, operator_cidrs={"office": "203.0.113.0/24"})
    folder.apply()
    record(folder, "nothing")
    record(folder, "one-stopped", main=named('cp-1 = {}, cp-2 = { instance_type = "t3.xlarge" }, cp-3 = {}'))
    record(folder, "all-stopped", main=lambda text: text.replace("master_count = 3", 'master_count = 3\n  master_instance_type = "t3.xlarge"'))
    record(folder, "one-replaced", f"-replace={MASTERS.format('cp-3')}")
    record(folder, "one-exchanged", main=named('cp-1 = {}, cp-3 = {}, cp-4 = { zone = "eu-central-1b" }'))
    record(folder, "rule-removed", operator_cidrs={})
    record(folder, "balancer-replaced", "-replace=module.control_plane.aws_lb.api")
    record(folder, "unprotected", protection=False)
    record(folder, "targets-owned", main=lambda text: text + ATTACHMENT)
    record(folder, "destroyed", "-destroy")


def adopt(run):
    before = run.folder("examples/adopt-single-master/before", ami_id=against_moto.OLD_DEBIAN)
    before.apply()
    folder = run.folder("examples/adopt-single-master", old_ami_id=against_moto.OLD_DEBIAN, ami_id=against_moto.DEBIAN, protection=True)
    shutil.copy(before.path / "terraform.tfstate", folder.path / "terraform.tfstate")
    record(folder, "adopted")
    compute, security = folder.path / "compute.tf", folder.path / "security.tf"
    compute_text, security_text = compute.read_text(), security.read_text()
    compute.write_text(compute_text.replace('instance_type      = "t3.medium"', 'instance_type      = "t3.large"'))
    record(folder, "adopted-stopped")
    compute.write_text(compute_text)
    security.write_text(security_text.replace('cidr_blocks = ["10.30.0.0/16", "198.51.100.0/24"]', 'cidr_blocks = ["10.30.0.0/16"]'))
    record(folder, "adopted-closed")


def main():
    if sys.argv[1:]:
        sys.exit(__doc__)
    try:
        tools = against_moto.Tools()
    except against_moto.Missing as missing:
        sys.exit(str(missing))
    PLANS.mkdir(parents=True, exist_ok=True)
    try:
        for what in (complete, adopt):
            with tempfile.TemporaryDirectory(prefix="quorate-plans-") as root:
                run = against_moto.Run(tools, what.__name__, pathlib.Path(root))
                try:
                    what(run)
                finally:
                    run.moto.close()
    finally:
        against_moto.end_all()


if __name__ == "__main__":
    main()
