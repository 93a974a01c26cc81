# The balancer, its name, and who may reach what.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/demo-api/0123456789abcdef" }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/demo-api/0123456789abcdef" }
  }
}

variables {
  name          = "demo"
  vpc_id        = "vpc-1"
  subnet_ids    = { eu-central-1a = "subnet-a", eu-central-1b = "subnet-b", eu-central-1c = "subnet-c" }
  ami_id        = "ami-1"
  endpoint_host = "api.demo.internal"
}

run "internal_by_default" {
  command = plan

  assert {
    condition     = aws_lb.api.internal && aws_lb.api.load_balancer_type == "network" && aws_lb.api.enable_cross_zone_load_balancing && aws_lb.api.enable_deletion_protection
    error_message = "An internal Network Load Balancer across zones, protected."
  }
  assert {
    condition     = aws_lb_target_group.api.target_type == "instance" && aws_lb_target_group.api.preserve_client_ip == "false"
    error_message = "A master must reach itself through the balancer."
  }
  assert {
    condition     = aws_lb_target_group.api.health_check[0].protocol == "HTTPS" && aws_lb_target_group.api.health_check[0].path == "/readyz" && aws_lb_target_group.api.health_check[0].interval == 5
    error_message = "The health check asks /readyz."
  }
  assert {
    condition     = aws_lb_target_group.api.health_check[0].timeout < aws_lb_target_group.api.health_check[0].interval
    error_message = "A check ends before the next one begins."
  }
  assert {
    condition     = aws_lb_listener.api.port == 6443 && aws_lb_listener.api.protocol == "TCP"
    error_message = "TCP 6443."
  }
  assert {
    condition     = length(aws_route53_record.api) == 0
    error_message = "No record unless asked for."
  }
}

run "nobody_from_outside_gets_in_by_default" {
  command = plan

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.cidr) == 0 && length(aws_vpc_security_group_ingress_rule.group) == 0
    error_message = "No outsider: ${jsonencode(keys(aws_vpc_security_group_ingress_rule.cidr))}."
  }
  assert {
    condition     = keys(aws_vpc_security_group_ingress_rule.role) == ["apiserver-balanced/balancer", "apiserver/node", "endpoint/node", "etcd-client/master", "etcd-peer/master", "kubelet/master", "vxlan/node"]
    error_message = "Seen: ${jsonencode(keys(aws_vpc_security_group_ingress_rule.role))}."
  }
  assert {
    condition     = keys(aws_vpc_security_group_egress_rule.role) == keys(aws_vpc_security_group_ingress_rule.role)
    error_message = "What one may send the other may receive, and the other way round."
  }
  assert {
    condition     = alltrue([for key, rule in aws_vpc_security_group_egress_rule.cidr : contains([53, 80, 123, 443], rule.from_port) && rule.from_port == rule.to_port])
    error_message = "Out of the cluster only registries, packages, names and time."
  }
}

run "outsiders_by_name" {
  command = plan

  variables {
    api_cidrs              = { office = "203.0.113.0/24", ci = "198.51.100.0/24" }
    api_security_group_ids = { bastion = "sg-bastion" }
    ssh_cidrs              = { vpn = "203.0.113.128/25" }
    node_port_cidrs        = { edge = "10.9.0.0/16" }
  }

  assert {
    condition     = keys(aws_vpc_security_group_ingress_rule.cidr) == ["endpoint/cidr/ci", "endpoint/cidr/office", "node-ports-tcp/cidr/edge", "node-ports-udp/cidr/edge", "ssh/cidr/vpn"]
    error_message = "Seen: ${jsonencode(keys(aws_vpc_security_group_ingress_rule.cidr))}."
  }
  assert {
    condition     = keys(aws_vpc_security_group_ingress_rule.group) == ["endpoint/group/bastion"]
    error_message = "Seen: ${jsonencode(keys(aws_vpc_security_group_ingress_rule.group))}."
  }
}

run "other_pod_networks_open_other_ports" {
  command = plan

  variables {
    port_features = ["bgp", "wireguard", "metrics_server"]
  }

  assert {
    condition     = keys(aws_vpc_security_group_ingress_rule.role) == ["apiserver-balanced/balancer", "apiserver/node", "bgp/node", "endpoint/node", "etcd-client/master", "etcd-peer/master", "kubelet-metrics/worker", "kubelet/master", "wireguard/node"]
    error_message = "Seen: ${jsonencode(keys(aws_vpc_security_group_ingress_rule.role))}."
  }
  assert {
    condition     = !anytrue([for rule in aws_vpc_security_group_egress_rule.cidr : rule.from_port == 80])
    error_message = "No mirror without TLS unless asked for."
  }
}

run "public_without_networks_is_refused" {
  command = plan
  variables {
    endpoint_public     = true
    balancer_subnet_ids = { eu-central-1a = "subnet-pa", eu-central-1b = "subnet-pb", eu-central-1c = "subnet-pc" }
  }
  expect_failures = [aws_lb.api]
}

run "public_for_everybody_is_refused" {
  command = plan
  variables {
    endpoint_public     = true
    api_cidrs           = { all = "0.0.0.0/0" }
    balancer_subnet_ids = { eu-central-1a = "subnet-pa", eu-central-1b = "subnet-pb", eu-central-1c = "subnet-pc" }
  }
  expect_failures = [var.api_cidrs]
}

run "public_in_private_subnets_is_refused" {
  command = plan
  variables {
    endpoint_public = true
    api_cidrs       = { office = "203.0.113.0/24" }
  }
  expect_failures = [aws_lb.api]
}

run "public_with_a_list" {
  command = plan

  variables {
    endpoint_public            = true
    api_cidrs                  = { office = "203.0.113.0/24" }
    balancer_subnet_ids        = { eu-central-1a = "subnet-pa", eu-central-1b = "subnet-pb", eu-central-1c = "subnet-pc" }
    balancer_static_public_ips = true
  }

  assert {
    condition     = !aws_lb.api.internal && length(aws_eip.balancer) == 3
    error_message = "Internet-facing, with an address of its own in each zone."
  }
  assert {
    condition     = contains(keys(aws_vpc_security_group_egress_rule.cidr), "endpoint-outside/node/anywhere")
    error_message = "Nodes may reach the balancer at its public addresses."
  }
  assert {
    condition     = alltrue([for master in aws_instance.k8s_master : startswith(master.subnet_id, "subnet-") && !startswith(master.subnet_id, "subnet-p")])
    error_message = "Masters stay in private subnets."
  }
}

run "fixed_addresses_in_all_zones" {
  command = plan

  variables {
    balancer_private_ips = { eu-central-1a = "10.0.0.250", eu-central-1b = "10.0.16.250", eu-central-1c = "10.0.32.250" }
  }

  assert {
    condition     = output.balancer_addresses == { eu-central-1a = "10.0.0.250", eu-central-1b = "10.0.16.250", eu-central-1c = "10.0.32.250" }
    error_message = "Seen: ${jsonencode(output.balancer_addresses)}."
  }
}

run "fixed_addresses_in_some_zones_are_refused" {
  command = plan
  variables {
    balancer_private_ips = { eu-central-1a = "10.0.0.250" }
  }
  expect_failures = [aws_lb.api]
}

run "a_load_balancers_own_name_is_no_endpoint" {
  command = plan
  variables {
    endpoint_host = "demo-api-0123456789abcdef.elb.eu-central-1.amazonaws.com"
  }
  expect_failures = [var.endpoint_host]
}

run "a_private_zone_of_its_own" {
  command = plan

  variables {
    dns = "private_zone"
  }

  assert {
    condition     = aws_route53_zone.private[0].name == "demo.internal" && aws_route53_record.api[0].name == "api.demo.internal"
    error_message = "The zone is the name without its first part."
  }
  assert {
    condition     = !aws_route53_record.api[0].alias[0].evaluate_target_health
    error_message = "The name resolves also while no master is healthy."
  }
}

run "a_name_outside_its_zone_is_refused" {
  command = plan
  variables {
    dns           = "private_zone"
    dns_zone_name = "other.internal"
  }
  expect_failures = [aws_route53_zone.private]
}

run "a_zone_that_exists" {
  command = plan

  variables {
    dns         = "existing_zone"
    dns_zone_id = "Z1"
  }

  assert {
    condition     = length(aws_route53_zone.private) == 0 && aws_route53_record.api[0].zone_id == "Z1"
    error_message = "A record, and no zone."
  }
}

run "a_zone_that_exists_has_an_id" {
  command = plan
  variables {
    dns = "existing_zone"
  }
  expect_failures = [aws_route53_record.api]
}

run "the_contract" {
  command = apply

  assert {
    condition     = output.quorate_cluster.version == 1
    error_message = "Another version needs another recorded file in terraform/tests/contract."
  }
  assert {
    condition     = output.quorate_cluster.endpoint.host == "api.demo.internal" && output.quorate_cluster.endpoint.balancer.kind == "nlb"
    error_message = "Seen: ${jsonencode(output.quorate_cluster.endpoint)}."
  }
  assert {
    condition     = [for master in output.quorate_cluster.masters : master.name] == ["cp-1", "cp-2", "cp-3"]
    error_message = "Seen: ${jsonencode(output.quorate_cluster.masters)}."
  }
}
