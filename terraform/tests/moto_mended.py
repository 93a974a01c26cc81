"""moto's server, with what it forgets of a request put back. The modules are written for AWS; where moto drops what AWS keeps, a second plan
would show changes that are not there. Nothing is added that AWS does not do, and each mend says what was lost. Seen with moto 5.2.1.

Run by against_moto.py, with the interpreter that moto is installed for: moto_mended.py -H ADDRESS -p PORT
"""

import functools
import sys
import threading

import moto.server
from moto.core.responses import ActionResult
from moto.ec2.exceptions import InvalidPermissionNotFoundError, InvalidSecurityGroupRuleIdNotFoundError
from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
from moto.ec2.models.instances import InstanceBackend
from moto.ec2.models.security_groups import SecurityGroupBackend, SecurityGroupRule
from moto.ec2.responses.instances import InstanceResponse
from moto.elbv2.models import AvailabilityZone, ELBv2Backend, FakeLoadBalancer

# What the request in hand asked for, for the thread that answers it.
ASKED = threading.local()


def mend(owner, name):
    """Replaces a method by a function that is given the old one first."""
    def with_new(new):
        old = getattr(owner, name)
        setattr(owner, name, functools.wraps(old)(lambda *arguments, **named: new(old, *arguments, **named)))
    return with_new


@mend(InstanceResponse, "run_instances")
def remember(old, self):
    ASKED.protected = str(self._get_param("DisableApiTermination")).lower() == "true"
    ASKED.credits = self._get_param("CreditSpecification.CpuCredits") or "standard"
    return old(self)


@mend(InstanceBackend, "run_instances")
def run_instances(old, self, *arguments, **named):
    # Lost: security groups and "no public address" of a machine whose first interface is spelled out in the request.
    interfaces = named.get("nics") or []
    if len(interfaces) == 1 and "NetworkInterfaceId" not in interfaces[0]:
        only = interfaces[0]
        named.update(nics=[], subnet_id=only.get("SubnetId"), security_group_ids=only.get("Groups") or [], associate_public_ip=str(only.get("AssociatePublicIpAddress")).lower() == "true")
    reservation = old(self, *arguments, **named)
    for instance in reservation.instances:
        # Lost: termination protection and CPU credits that are asked for at the start.
        instance.disable_api_termination = getattr(ASKED, "protected", False)
        instance.cpu_credits = getattr(ASKED, "credits", "standard")
    return reservation


@mend(InstanceBackend, "modify_instance_attribute")
def modify_instance_attribute(old, self, instance_id, key, value):
    # Lost: the difference between the text "false" and false.
    return old(self, instance_id, key, {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value)


@mend(InstanceResponse, "describe_instance_credit_specifications")
def credits(old, self):
    instances = self.ec2_backend.describe_instance_credit_specifications(self._get_param("InstanceIds", []))
    return ActionResult({"InstanceCreditSpecifications": [{"InstanceId": each.id, "CpuCredits": getattr(each, "cpu_credits", "standard")} for each in instances]})


@mend(NetworkInterfaceBackend, "modify_network_interface_attribute")
def modify_groups(old, self, eni_id, group_ids, *arguments, **named):
    # Lost: a machine's groups are those of its first interface.
    old(self, eni_id, group_ids, *arguments, **named)
    interface = self.get_network_interface(eni_id)
    if group_ids and interface.instance and interface.device_index == 0:
        interface.instance.security_groups = list(interface._group_set)


ASSOCIATION = NetworkInterface.association.fget
# Lost: that an interface without a public address has none; moto answers with an empty one.
NetworkInterface.association = property(lambda self: ASSOCIATION(self) or None)

DESCRIPTION = SecurityGroupRule.description.fget
# Lost: descriptions of rules that name a group.
SecurityGroupRule.description = property(lambda self: DESCRIPTION(self) or (self.source_group or {}).get("Description"))


def revoke(old, self, **named):
    # Lost: the error's name for a rule that is gone. A request is sent again when its answer is lost on a busy machine; the provider takes AWS's
    # error for what it wanted, and moto's for a fault.
    try:
        return old(self, **named)
    except InvalidPermissionNotFoundError:
        if not named.get("security_rule_ids"):
            raise
        raise InvalidSecurityGroupRuleIdNotFoundError(named["security_rule_ids"][0]) from None


for direction in ("ingress", "egress"):
    mend(SecurityGroupBackend, f"revoke_security_group_{direction}")(revoke)


@mend(ELBv2Backend, "create_load_balancer")
def create_load_balancer(old, self, *arguments, **named):
    # Lost: the default of the scheme, and addresses of a Network Load Balancer.
    named["scheme"] = named.get("scheme") or "internet-facing"
    balancer = old(self, *arguments, **named)
    balancer.mappings = {each["SubnetId"]: each for each in named.get("subnet_mappings") or []}
    return balancer


def zones(self):
    found = []
    for subnet in self.subnets:
        zone = AvailabilityZone(subnet)
        asked = getattr(self, "mappings", {}).get(subnet.id, {})
        address = {"PrivateIPv4Address": asked.get("PrivateIPv4Address"), "AllocationId": asked.get("AllocationId")}
        zone.load_balancer_addresses = [{key: value for key, value in address.items() if value}] if any(address.values()) else []
        found.append(zone)
    return found


FakeLoadBalancer.availability_zones = property(zones)

RUN = moto.server.run_simple
ONE = threading.Lock()


def one_at_a_time(host, port, application, **options):
    # Lost: order. Requests of several threads at once fail now and then half way, and tried again they find what they made.
    def locked(environment, start):
        with ONE:
            return application(environment, start)

    RUN(host, port, locked, **options)


moto.server.run_simple = one_at_a_time

if __name__ == "__main__":
    sys.exit(moto.server.main(sys.argv[1:]))
