# Either a new VPC with a private and a public subnet in each zone, or one that exists, looked up and checked. Nothing here knows of
# Kubernetes. Start at the locals: what the outputs say comes from them in both cases.

locals {
  new = var.existing == null

  # By zone, so that a zone more or less touches no other zone's resources.
  zones = local.new ? { for index, zone in var.zones : zone => index } : {}

  # Sixteenths: private subnets from the front, public ones from the back half. Room for eight zones.
  private_cidrs = { for zone, index in local.zones : zone => cidrsubnet(var.cidr, 4, index) }
  public_cidrs  = { for zone, index in local.zones : zone => cidrsubnet(var.cidr, 4, 8 + index) }

  nat_zones = var.nat == "none" ? [] : var.nat == "single" ? slice(var.zones, 0, min(1, length(var.zones))) : var.zones
  nat       = local.new ? toset(local.nat_zones) : toset([])

  existing_private = local.new ? {} : var.existing.private_subnet_ids
  existing_public  = local.new ? {} : var.existing.public_subnet_ids

  vpc_id             = local.new ? aws_vpc.this[0].id : data.aws_vpc.existing[0].id
  private_subnet_ids = local.new ? { for zone, subnet in aws_subnet.private : zone => subnet.id } : { for zone, subnet in data.aws_subnet.private : zone => subnet.id }
  public_subnet_ids  = local.new ? { for zone, subnet in aws_subnet.public : zone => subnet.id } : { for zone, subnet in data.aws_subnet.public : zone => subnet.id }
}

resource "aws_vpc" "this" {
  # checkov:skip=CKV2_AWS_11:Flow logs cost by volume and belong to the account's owner, who can attach them to the VPC by its id
  count = local.new ? 1 : 0

  cidr_block = var.cidr
  # Both are needed for names in private zones, so for the endpoint's name.
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = merge(var.tags, { Name = var.name })

  lifecycle {
    precondition {
      condition     = length(var.zones) > 0
      error_message = "A new VPC needs zones, three of them where three masters shall survive the loss of one; or name a VPC that you have in `existing`."
    }
  }
}

# AWS gives every VPC a group that admits itself. Nobody uses it; without rules nobody can by accident.
resource "aws_default_security_group" "this" {
  count = local.new ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = "${var.name}-default-unused" })
}

resource "aws_internet_gateway" "this" {
  count = local.new ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = var.name })
}

resource "aws_subnet" "private" {
  for_each = local.zones

  vpc_id            = aws_vpc.this[0].id
  availability_zone = each.key
  cidr_block        = local.private_cidrs[each.key]

  tags = merge(var.tags, { Name = "${var.name}-private-${each.key}" })
}

resource "aws_subnet" "public" {
  for_each = local.zones

  vpc_id            = aws_vpc.this[0].id
  availability_zone = each.key
  cidr_block        = local.public_cidrs[each.key]
  # A machine gets a public address only when somebody says so.
  map_public_ip_on_launch = false

  tags = merge(var.tags, { Name = "${var.name}-public-${each.key}" })
}

resource "aws_eip" "nat" {
  # checkov:skip=CKV2_AWS_19:The address is a NAT gateway's, not an instance's
  for_each = local.nat

  domain = "vpc"
  tags   = merge(var.tags, { Name = "${var.name}-nat-${each.key}" })

  depends_on = [aws_internet_gateway.this]
}

resource "aws_nat_gateway" "this" {
  for_each = local.nat

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id
  tags          = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

resource "aws_route_table" "public" {
  count = local.new ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = "${var.name}-public" })
}

resource "aws_route" "public" {
  count = local.new ? 1 : 0

  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_route_table_association" "public" {
  for_each = local.zones

  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public[0].id
}

# One table a zone even with a single NAT gateway: going from `single` to `per_zone` then changes routes, not subnets.
resource "aws_route_table" "private" {
  for_each = local.zones

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = "${var.name}-private-${each.key}" })
}

resource "aws_route" "private" {
  for_each = var.nat == "none" ? {} : local.zones

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[var.nat == "single" ? var.zones[0] : each.key].id
}

resource "aws_route_table_association" "private" {
  for_each = local.zones

  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}
