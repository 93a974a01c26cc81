# The endpoint's name, where this module makes it resolve. An alias follows the balancer's addresses; the name stays when the balancer goes.

locals {
  dns_zone_name = coalesce(var.dns_zone_name, join(".", slice(split(".", var.endpoint_host), 1, length(split(".", var.endpoint_host)))))
}

resource "aws_route53_zone" "private" {
  # checkov:skip=CKV2_AWS_38:DNSSEC is not to be had for a private zone
  # checkov:skip=CKV2_AWS_39:Query logs of a private zone belong to the resolver of the VPC, which is its owner's
  count = var.dns == "private_zone" ? 1 : 0

  name    = local.dns_zone_name
  comment = "The API of ${var.name}"
  tags    = local.tags

  vpc {
    vpc_id = var.vpc_id
  }

  lifecycle {
    # Further VPCs are attached with aws_route53_zone_association.
    ignore_changes = [vpc]

    precondition {
      condition     = endswith(var.endpoint_host, ".${local.dns_zone_name}")
      error_message = "The endpoint ${var.endpoint_host} is not in the zone ${local.dns_zone_name}."
    }
  }
}

resource "aws_route53_record" "api" {
  # checkov:skip=CKV2_AWS_23:It is an alias of the balancer, which checkov does not follow
  count = var.dns == "none" ? 0 : 1

  zone_id = var.dns == "private_zone" ? aws_route53_zone.private[0].zone_id : var.dns_zone_id
  name    = var.endpoint_host
  type    = "A"

  alias {
    name    = aws_lb.api.dns_name
    zone_id = aws_lb.api.zone_id
    # With no healthy master the name must still resolve: a client that is refused tries again, one without an address gives up.
    evaluate_target_health = false
  }

  lifecycle {
    precondition {
      condition     = var.dns != "existing_zone" || var.dns_zone_id != null
      error_message = "dns = \"existing_zone\" needs dns_zone_id."
    }
  }
}
