# The module's logic, with a provider that makes nothing up but ids.

mock_provider "aws" {}

variables {
  name  = "demo"
  zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
}

run "a_new_vpc_has_two_subnets_and_a_nat_gateway_in_each_zone" {
  command = plan

  assert {
    condition     = sort(keys(aws_subnet.private)) == sort(var.zones) && sort(keys(aws_subnet.public)) == sort(var.zones)
    error_message = "A private and a public subnet in each zone."
  }
  assert {
    condition     = length(distinct(concat(values(local.private_cidrs), values(local.public_cidrs)))) == 6
    error_message = "Six networks, each once: ${jsonencode([local.private_cidrs, local.public_cidrs])}."
  }
  assert {
    condition     = local.private_cidrs["eu-central-1b"] == "10.0.16.0/20" && local.public_cidrs["eu-central-1b"] == "10.0.144.0/20"
    error_message = "Addresses follow from the zone's place in the list."
  }
  assert {
    condition     = sort(keys(aws_nat_gateway.this)) == sort(var.zones)
    error_message = "A NAT gateway in each zone."
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.public : !subnet.map_public_ip_on_launch])
    error_message = "No machine gets a public address unasked."
  }
}

run "one_zone_more_leaves_the_others_where_they_are" {
  command = plan

  variables {
    zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c", "eu-central-1d"]
  }

  assert {
    condition     = local.private_cidrs["eu-central-1a"] == "10.0.0.0/20" && local.private_cidrs["eu-central-1c"] == "10.0.32.0/20" && local.private_cidrs["eu-central-1d"] == "10.0.48.0/20"
    error_message = "Seen: ${jsonencode(local.private_cidrs)}."
  }
}

run "a_single_nat_gateway_serves_all_zones" {
  command = plan

  variables {
    nat = "single"
  }

  assert {
    condition     = keys(aws_nat_gateway.this) == ["eu-central-1a"] && length(aws_route.private) == 3
    error_message = "One gateway, and a route to it from each zone."
  }
}

run "without_nat_there_is_no_way_out" {
  command = plan

  variables {
    nat = "none"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 0 && length(aws_route.private) == 0 && length(aws_eip.nat) == 0
    error_message = "Nothing to reach the internet with."
  }
}

run "a_new_vpc_needs_zones" {
  command = plan

  variables {
    zones = []
  }

  expect_failures = [aws_vpc.this]
}

run "a_network_that_is_too_small_is_refused" {
  command = plan

  variables {
    cidr = "10.0.0.0/24"
  }

  expect_failures = [var.cidr]
}

run "an_existing_vpc_is_taken_as_it_is" {
  command = plan

  variables {
    zones = []
    existing = {
      vpc_id             = "vpc-1"
      private_subnet_ids = { eu-central-1a = "subnet-1" }
    }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { enable_dns_support = true, enable_dns_hostnames = true }
  }
  override_data {
    target = data.aws_subnet.private
    values = { vpc_id = "vpc-1", availability_zone = "eu-central-1a" }
  }

  assert {
    condition     = length(aws_vpc.this) + length(aws_subnet.private) + length(aws_nat_gateway.this) + length(aws_default_security_group.this) == 0
    error_message = "Nothing is made in a VPC that exists."
  }
  assert {
    condition     = output.vpc_id == "vpc-1" && output.private_subnet_ids == tomap({ eu-central-1a = "subnet-1" })
    error_message = "Seen: ${jsonencode([output.vpc_id, output.private_subnet_ids])}."
  }
}

run "an_existing_subnet_in_another_zone_is_refused" {
  command = plan

  variables {
    zones = []
    existing = {
      vpc_id             = "vpc-1"
      private_subnet_ids = { eu-central-1a = "subnet-1" }
    }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { enable_dns_support = true, enable_dns_hostnames = true }
  }
  override_data {
    target = data.aws_subnet.private
    values = { vpc_id = "vpc-1", availability_zone = "eu-central-1b" }
  }

  expect_failures = [data.aws_subnet.private]
}

run "an_existing_vpc_without_dns_is_refused" {
  command = plan

  variables {
    zones    = []
    existing = { vpc_id = "vpc-1", private_subnet_ids = {} }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { enable_dns_support = true, enable_dns_hostnames = false }
  }

  expect_failures = [data.aws_vpc.existing]
}
