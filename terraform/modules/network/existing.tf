# What exists is looked up, so that a subnet of the wrong VPC or zone is refused here and not found out by a master that never answers.

data "aws_vpc" "existing" {
  count = local.new ? 0 : 1

  id = var.existing.vpc_id

  lifecycle {
    postcondition {
      condition     = self.enable_dns_support && self.enable_dns_hostnames
      error_message = "The VPC needs enableDnsSupport and enableDnsHostnames: without them no name in a private zone resolves, so neither does the endpoint's."
    }
  }
}

data "aws_subnet" "private" {
  for_each = local.existing_private

  id = each.value

  lifecycle {
    postcondition {
      condition     = self.vpc_id == var.existing.vpc_id && self.availability_zone == each.key
      error_message = "Private subnet ${self.id} was said to lie in ${each.key} of ${var.existing.vpc_id}; it lies in ${self.availability_zone} of ${self.vpc_id}."
    }
  }
}

data "aws_subnet" "public" {
  for_each = local.existing_public

  id = each.value

  lifecycle {
    postcondition {
      condition     = self.vpc_id == var.existing.vpc_id && self.availability_zone == each.key
      error_message = "Public subnet ${self.id} was said to lie in ${each.key} of ${var.existing.vpc_id}; it lies in ${self.availability_zone} of ${self.vpc_id}."
    }
  }
}
