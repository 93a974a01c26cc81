# The API's balancer: a Network Load Balancer that passes TCP on and never ends TLS. Clients of the API prove who they are with certificates;
# an Application Load Balancer would end TLS itself, so nobody's certificate would reach an API server.
#
# Targets are registered by nobody here. Two owners of a target undo each other, and a target must not be there before its own /readyz is
# green: a balancer whose targets are all unhealthy sends traffic to all of them. Quorate, or its operator, registers each master when it serves.

locals {
  balancer_subnet_ids = var.balancer_subnet_ids == null ? var.subnet_ids : var.balancer_subnet_ids
  balancer_public_ips = var.endpoint_public && var.balancer_static_public_ips ? local.balancer_subnet_ids : {}
}

resource "aws_eip" "balancer" {
  # checkov:skip=CKV2_AWS_19:The address is a balancer's, not an instance's
  for_each = local.balancer_public_ips

  domain = "vpc"
  tags   = merge(local.tags, { Name = "${var.name}-api-${each.key}" })
}

resource "aws_lb" "api" {
  # checkov:skip=CKV_AWS_91:A Network Load Balancer logs only what goes through TLS listeners, and this one has none
  # checkov:skip=CKV2_AWS_28:WAF is for what speaks HTTP; this passes TCP on
  name               = "${var.name}-api"
  load_balancer_type = "network"

  # Internal unless asked for, and then only for those whom api_cidrs names.
  internal = !var.endpoint_public

  # A balancer made without a group can never get one, and lets everybody in.
  security_groups = [aws_security_group.balancer.id]

  # Off by default. Without it the balancer's address in a zone leads only to masters of that zone, and DNS drops the zone when its one master
  # is gone: with three masters every zone's clients would depend on one of them.
  enable_cross_zone_load_balancing = true

  enable_deletion_protection = var.protection

  # Always mappings, also where no address is fixed: going from subnets to mappings makes a new balancer.
  dynamic "subnet_mapping" {
    for_each = local.balancer_subnet_ids
    content {
      subnet_id            = subnet_mapping.value
      private_ipv4_address = lookup(var.balancer_private_ips, subnet_mapping.key, null)
      allocation_id        = try(aws_eip.balancer[subnet_mapping.key].id, null)
    }
  }

  tags = merge(local.tags, { Name = "${var.name}-api" })

  lifecycle {
    precondition {
      condition     = length(local.staying) == 1 || length(local.zones) > 1
      error_message = "${length(local.staying)} masters in one zone (${local.zones[0]}) survive the loss of a machine and not of the zone. Give subnets in three zones."
    }
    precondition {
      condition     = !var.endpoint_public || length(var.api_cidrs) > 0
      error_message = "A public endpoint needs api_cidrs: the networks that may reach it, those of the nodes' NAT gateways among them."
    }
    precondition {
      condition     = !var.endpoint_public || var.balancer_subnet_ids != null
      error_message = "A public endpoint needs balancer_subnet_ids: public subnets, one for each zone. Masters stay in subnet_ids."
    }
    precondition {
      condition     = length(var.balancer_private_ips) == 0 || (!var.endpoint_public && sort(keys(var.balancer_private_ips)) == sort(keys(local.balancer_subnet_ids)))
      error_message = "balancer_private_ips fixes an internal balancer's address in all its zones (${join(", ", sort(keys(local.balancer_subnet_ids)))}) or in none."
    }
  }
}

resource "aws_lb_target_group" "api" {
  # checkov:skip=CKV_AWS_378:TCP, so that TLS ends at the API server alone
  name     = "${var.name}-api"
  vpc_id   = var.vpc_id
  port     = 6443
  protocol = "TCP"

  # Instances and not addresses: a target then belongs to a machine, and one that is terminated leaves by itself.
  target_type = "instance"

  # On by default for instances. With it a master that reaches the balancer and is given itself gets packets from its own address, drops them,
  # and times out: with three masters every third connection of theirs. So an API server sees the balancer's address, and the audit log too.
  preserve_client_ip = false

  # Deregistering lets what is under way end: API requests last at most a minute, but watches have no end of their own. So they are cut after
  # 90 s. Without cutting, a client goes on waiting at a master whose API server has stopped.
  deregistration_delay   = 90
  connection_termination = true

  # A target that turns unhealthy has its connections reset, as by default. That is what a dead master needs: its clients would wait for
  # their own timeouts, up to 45 s for kubectl and kubelets. A planned stop would rather keep them; for one, deregister first.
  target_health_state {
    enable_unhealthy_connection_termination = true
  }

  health_check {
    # A TCP check keeps a master in service whose API server listens and whose etcd is gone. /readyz says no then, and while it shuts down.
    # The balancer does not verify the certificate; what it can be told by an impostor is only that he is ready.
    protocol = "HTTPS"
    path     = "/readyz"
    matcher  = "200"
    port     = "traffic-port"

    # The least that there is. A dead master is out after two checks, so in 10 to 15 s; established connections end then too.
    interval            = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2

    # The API server's own look at etcd may take 2 s: a shorter timeout would turn slow masters out, one after another.
    timeout = 4
  }

  tags = local.tags
}

resource "aws_lb_listener" "api" {
  # checkov:skip=CKV_AWS_2:TCP, so that TLS ends at the API server alone
  # checkov:skip=CKV_AWS_103:TCP, so that TLS ends at the API server alone
  # checkov:skip=CKV2_AWS_20:There is no HTTP to redirect
  load_balancer_arn = aws_lb.api.arn
  port              = 6443
  protocol          = "TCP"

  # The idle timeout stays at 350 s: kubectl, kubelets and controllers ping an idle connection every 30 s.

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.api.arn
  }

  tags = local.tags
}
