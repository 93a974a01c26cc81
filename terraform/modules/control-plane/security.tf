# Security groups from one table, ports.json: who may open a connection to whom, on which port. Every row between two roles becomes a rule on
# the receiving group and one on the sending group, so nothing is open on either side that the table does not name.
#
# Roles have a group each: balancer, master, worker, and node (every master and worker). Outsiders are lists in variables: api_clients,
# operators, node_port_clients, and anywhere.

locals {
  ports = jsondecode(file("${path.module}/ports.json"))

  features = setunion(var.port_features, var.endpoint_public ? ["public"] : [])
  rules    = [for rule in local.ports.rules : rule if contains(local.features, lookup(rule, "when", "")) || lookup(rule, "when", "") == ""]

  groups = {
    balancer = aws_security_group.balancer.id
    master   = aws_security_group.master.id
    worker   = aws_security_group.worker.id
    node     = aws_security_group.node.id
  }
  roles = ["balancer", "master", "worker", "node"]

  outside_cidrs = {
    api_clients       = var.api_cidrs
    operators         = var.ssh_cidrs
    node_port_clients = var.node_port_cidrs
    anywhere          = var.egress_cidrs
  }
  outside_groups = {
    api_clients       = var.api_security_group_ids
    operators         = var.ssh_security_group_ids
    node_port_clients = {}
    anywhere          = {}
  }

  # One entry a rule and source. Keys are made of names, never of ids or addresses: those may not be known yet, and a changed one must not
  # take another one's rule away.
  pairs = flatten([for rule in local.rules : [for from in rule.from : merge(rule, { from = from })]])

  between_roles = { for pair in local.pairs : "${pair.name}/${pair.from}" => pair if contains(local.roles, pair.from) && contains(local.roles, pair.to) }
  from_cidrs = merge([
    for pair in local.pairs : { for name, cidr in local.outside_cidrs[pair.from] : "${pair.name}/cidr/${name}" => merge(pair, { cidr = cidr, who = name }) }
    if !contains(local.roles, pair.from)
  ]...)
  from_groups = merge([
    for pair in local.pairs : { for name, group in local.outside_groups[pair.from] : "${pair.name}/group/${name}" => merge(pair, { group = group, who = name }) }
    if !contains(local.roles, pair.from)
  ]...)
  to_cidrs = merge([
    for pair in local.pairs : { for name, cidr in local.outside_cidrs[pair.to] : "${pair.name}/${pair.from}/${name}" => merge(pair, { cidr = cidr, who = name }) }
    if !contains(local.roles, pair.to)
  ]...)
}

resource "aws_security_group" "balancer" {
  # checkov:skip=CKV2_AWS_5:It is the balancer's, whose attribute checkov does not follow
  name        = "${var.name}-balancer"
  description = "The balancer of the API of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-balancer" })
}

resource "aws_security_group" "master" {
  # checkov:skip=CKV2_AWS_5:It is the masters', whose for_each checkov does not follow
  name        = "${var.name}-master"
  description = "Masters of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-master" })
}

resource "aws_security_group" "worker" {
  # checkov:skip=CKV2_AWS_5:It is the workers', here or made elsewhere
  name        = "${var.name}-worker"
  description = "Workers of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-worker" })
}

resource "aws_security_group" "node" {
  # checkov:skip=CKV2_AWS_5:It is every machine's, whose for_each checkov does not follow
  name        = "${var.name}-node"
  description = "Masters and workers of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-node" })
}

resource "aws_vpc_security_group_ingress_rule" "role" {
  for_each = local.between_roles

  security_group_id            = local.groups[each.value.to]
  referenced_security_group_id = local.groups[each.value.from]
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.first
  to_port                      = each.value.last
  description                  = "${each.value.name} from ${each.value.from}"
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "role" {
  for_each = local.between_roles

  security_group_id            = local.groups[each.value.from]
  referenced_security_group_id = local.groups[each.value.to]
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.first
  to_port                      = each.value.last
  description                  = "${each.value.name} to ${each.value.to}"
  tags                         = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "cidr" {
  for_each = local.from_cidrs

  security_group_id = local.groups[each.value.to]
  cidr_ipv4         = each.value.cidr
  ip_protocol       = each.value.protocol
  from_port         = each.value.first
  to_port           = each.value.last
  description       = "${each.value.name} from ${each.value.who}"
  tags              = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "group" {
  for_each = local.from_groups

  security_group_id            = local.groups[each.value.to]
  referenced_security_group_id = each.value.group
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.first
  to_port                      = each.value.last
  description                  = "${each.value.name} from ${each.value.who}"
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "cidr" {
  for_each = local.to_cidrs

  security_group_id = local.groups[each.value.from]
  cidr_ipv4         = each.value.cidr
  ip_protocol       = each.value.protocol
  from_port         = each.value.first
  to_port           = each.value.last
  description       = "${each.value.name} to ${each.value.who}"
  tags              = local.tags
}
