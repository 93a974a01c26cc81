#!/usr/bin/python
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Hands one request to the quorate binary on a host. Nothing is decided here."""

DOCUMENTATION = r"""
---
module: node
short_description: Hand one request to the quorate binary on a host
version_added: 0.1.0
description:
  - Hands a request, as C(quorate requests) makes it on the controller, to C(quorate node run) on the host, and tells what became of it.
  - Whether it is done is decided on the host. It looks afresh, and refuses what would cost the cluster its quorum, what is not fenced, and
    what comes too late.
  - A request is good once, and for a minute where it needs testimony of other hosts.
options:
  what:
    description: The end state in words, for messages.
    type: str
    required: true
  binary:
    description: SHA-256 of the quorate binary that shall answer, in hexadecimal. C(quorate requests) brought it to the host.
    type: str
    required: true
  differences:
    description: What differed from the end state when the controller looked. This is what check mode shows.
    type: list
    elements: str
    default: []
  carried:
    description:
      - The request with its ticket, as JSON. What other hosts give is in it sealed to this one.
      - Not needed in check mode.
    type: str
notes:
  - In check mode nothing is started on the host. The differences are those that the host's own binary told the controller a moment ago.
author:
  - The Quorate authors (@quorate)
"""

EXAMPLES = r"""
- name: Act on the next step of this host
  quorate.cluster.node:
    what: "{{ step.what }}"
    binary: "{{ step.binary }}"
    differences: "{{ step.differences }}"
    carried: "{{ step.carried | to_json }}"
"""

RETURN = r"""
differences:
  description: What differed from the end state, by the host's own look. Empty when it stood already.
  returned: success
  type: list
  elements: str
  sample: ["net.ipv4.ip_forward: expected 1, seen 0"]
again:
  description: Why the host could not say yes yet: a member that it has not seen alive, an election. Nothing was done. Ask for what is next again.
  returned: when the host could not see enough, or is busy
  type: str
refusal:
  description: The guard's refusal, as data.
  returned: when the host refused
  type: dict
progress:
  description: What the host said on the way.
  returned: when it said anything
  type: list
  elements: str
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

BINARIES = "/var/lib/quorate/bin"
DIGITS = frozenset("0123456789abcdef")


def shown_differences(differences):
    """The differences as Ansible shows a diff."""
    return {"prepared": "".join("%s\n" % line for line in differences)}


def ended(differences):
    """The result of a step that was made, or stood."""
    result = {"changed": bool(differences), "differences": differences}
    if differences:
        result["diff"] = shown_differences(differences)
    return result


def understood(answer, what, said):
    """The result that an answer of the host means, and whether the task fails. `said` is what it told people."""
    if not isinstance(answer, dict) or len(answer) != 1:
        return {"msg": "%s: the host's answer is none: %.200r" % (what, answer)}, True
    ((kind, value),) = answer.items()
    if kind == "outcome":
        return ended(value["changed"]), False
    if kind == "busy":
        again = "busy with `%s` for %d s" % (value["action"], value["sinceMs"] // 1000)
        return {"changed": False, "differences": [], "again": again}, False
    if kind == "refused":
        # A member that nobody saw alive yet; or one that follows another leader than those who were asked before an election.
        if value["code"] in ("missing", "would-lose-quorum"):
            return {"changed": False, "differences": [], "again": said}, False
        text = "%s: refused: %s; `quorate explain %s` says more" % (what, said, value["code"])
        return {"msg": text, "refusal": value}, True
    if kind == "failed":
        return {"msg": "%s: %s" % (what, value["error"])}, True
    return {"msg": "%s: expected an outcome, seen `%s`" % (what, kind)}, True


def main():
    module = AnsibleModule(
        argument_spec={
            "what": {"type": "str", "required": True},
            "binary": {"type": "str", "required": True},
            "differences": {"type": "list", "elements": "str", "default": []},
            "carried": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    what = module.params["what"]
    if module.check_mode:
        module.exit_json(**ended(module.params["differences"]))
    if not module.params["carried"]:
        module.fail_json(msg="%s: there is no request to hand over; `quorate requests FENCE` makes one" % what)
    digest = module.params["binary"]
    if len(digest) != 64 or not DIGITS.issuperset(digest):
        module.fail_json(msg="expected a binary's SHA-256, seen %.100r" % digest)
    binary = os.path.join(BINARIES, "quorate-%s" % digest)
    if not os.access(binary, os.X_OK):
        module.fail_json(
            msg="expected the controller's quorate at %s, where a look at the host puts it; run the play again, as root on the host" % binary
        )
    code, out, err = module.run_command([binary, "node", "run"], data=module.params["carried"], binary_data=True)
    progress = [line for line in err.splitlines() if line]
    if code != 0:
        module.fail_json(msg="%s: quorate ended with %d: %s" % (what, code, " ".join(progress)), rc=code)
    try:
        answer = json.loads(out)
    except ValueError:
        module.fail_json(msg="%s: the host's answer is no JSON: %.200r" % (what, out))
    result, fails = understood(answer, what, progress[-1] if progress else "")
    if progress:
        result["progress"] = progress
    if fails:
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
