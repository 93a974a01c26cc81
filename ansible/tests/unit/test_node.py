"""What a host's answer means for a task."""


def test_an_outcome_tells_the_truth_about_changes(node):
    changed = ["net.ipv4.ip_forward: expected 1, seen 0"]
    result, fails = node.understood({"outcome": {"changed": changed, "report": {}}}, "it", "")
    assert not fails
    assert result == {"changed": True, "differences": changed, "diff": {"prepared": changed[0] + "\n"}}
    result, fails = node.understood({"outcome": {"changed": [], "report": {}}}, "it", "")
    assert not fails
    assert result == {"changed": False, "differences": []}


def test_a_refusal_fails_with_its_code(node):
    refusal = {"code": "learner-present", "learner": "7"}
    result, fails = node.understood({"refused": refusal}, "etcd has a learner", "cp-4 is one")
    assert fails
    assert result["refusal"] == refusal
    assert "cp-4 is one" in result["msg"]
    assert "quorate explain learner-present" in result["msg"]


def test_what_may_pass_is_asked_for_again(node):
    for answer in (
        {"refused": {"code": "missing", "missing": {}}},
        {"refused": {"code": "would-lose-quorum", "voters": 3, "healthy": 1, "needed": 2}},
        {"busy": {"action": "kubelet runs", "sinceMs": 61000, "fence": 3}},
    ):
        result, fails = node.understood(answer, "it", "nobody has seen the learner")
        assert not fails, answer
        assert result["changed"] is False and result["again"], answer


def test_what_is_no_answer_fails(node):
    for answer in (None, [], "x", {}, {"outcome": 1, "busy": 2}, {"claimed": {}}, {"failed": {"error": "expected a, seen b"}}):
        result, fails = node.understood(answer, "it", "")
        assert fails and result["msg"].startswith("it: "), answer
