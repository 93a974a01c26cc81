# Who is made, what they are called and where they stand.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  # OpenTofu makes up values for a plan already, and the provider wants these to be ARNs.
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

run "three_masters_by_default_one_in_each_zone" {
  command = plan

  assert {
    condition     = keys(aws_instance.k8s_master) == ["cp-1", "cp-2", "cp-3"]
    error_message = "Seen: ${jsonencode(keys(aws_instance.k8s_master))}."
  }
  assert {
    condition     = [for name in ["cp-1", "cp-2", "cp-3"] : aws_instance.k8s_master[name].subnet_id] == ["subnet-a", "subnet-b", "subnet-c"]
    error_message = "One in each zone."
  }
  assert {
    condition     = alltrue([for master in aws_instance.k8s_master : master.instance_type == "t3.large" && master.disable_api_termination])
    error_message = "t3.large, protected from termination."
  }
  assert {
    condition     = alltrue([for master in aws_instance.k8s_master : master.metadata_options[0].http_tokens == "required" && master.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "IMDSv2 for the host alone."
  }
  assert {
    condition     = alltrue([for master in aws_instance.k8s_master : master.root_block_device[0].encrypted && !master.associate_public_ip_address])
    error_message = "Encrypted, and without a public address."
  }
  assert {
    condition     = [for name in ["cp-1", "cp-2", "cp-3"] : aws_ebs_volume.etcd[name].availability_zone] == ["eu-central-1a", "eu-central-1b", "eu-central-1c"] && alltrue([for volume in aws_ebs_volume.etcd : volume.encrypted && volume.type == "gp3"])
    error_message = "Each has an encrypted gp3 volume for etcd in its own zone."
  }
  assert {
    condition     = alltrue([for attachment in aws_volume_attachment.etcd : attachment.skip_destroy])
    error_message = "Nobody takes the disk from a running etcd."
  }
  assert {
    condition     = length(aws_instance.k8s_worker) == 0 && length(aws_iam_role.worker) == 0
    error_message = "No workers unless asked for."
  }
}

run "one_master" {
  command = plan

  variables {
    master_count = 1
    subnet_ids   = { eu-central-1a = "subnet-a" }
  }

  assert {
    condition     = keys(aws_instance.k8s_master) == ["cp-1"]
    error_message = "One, and one zone is enough for it."
  }
}

run "five_masters_over_three_zones" {
  command = plan

  variables {
    master_count = 5
  }

  assert {
    condition     = [for name in keys(aws_instance.k8s_master) : aws_instance.k8s_master[name].subnet_id] == ["subnet-a", "subnet-b", "subnet-c", "subnet-a", "subnet-b"]
    error_message = "Two, two and one."
  }
}

run "two_masters_are_refused" {
  command = plan
  variables {
    master_count = 2
  }
  expect_failures = [var.master_count]
}

run "four_masters_are_refused" {
  command = plan
  variables {
    master_count = 4
  }
  expect_failures = [var.master_count]
}

run "seven_masters_are_refused" {
  command = plan
  variables {
    master_count = 7
  }
  expect_failures = [var.master_count]
}

run "an_even_number_by_name_is_refused" {
  command = plan
  variables {
    masters = { cp-1 = {}, cp-2 = {} }
  }
  expect_failures = [var.masters]
}

run "one_that_leaves_does_not_count" {
  command = plan

  variables {
    masters = { cp-1 = { leaving = true }, cp-2 = {}, cp-3 = {}, cp-4 = {} }
  }

  assert {
    condition     = keys(aws_instance.k8s_master) == ["cp-1", "cp-2", "cp-3", "cp-4"] && aws_instance.k8s_master["cp-1"].disable_api_termination
    error_message = "Four machines for a while, and the one that leaves is still protected."
  }
  assert {
    condition     = aws_instance.k8s_master["cp-4"].subnet_id == "subnet-a"
    error_message = "cp-4 comes where cp-1 was."
  }
}

run "who_stays_is_not_moved_when_another_goes" {
  command = plan

  variables {
    masters = { cp-2 = {}, cp-3 = {}, cp-4 = {} }
  }

  assert {
    condition     = [for name in ["cp-2", "cp-3", "cp-4"] : aws_instance.k8s_master[name].subnet_id] == ["subnet-b", "subnet-c", "subnet-a"]
    error_message = "Zones follow from names, not from places in a list."
  }
}

run "a_name_without_a_number_needs_a_zone" {
  command = plan
  variables {
    masters = { alpha = {}, cp-2 = {}, cp-3 = {} }
  }
  expect_failures = [aws_instance.k8s_master]
}

run "a_zone_without_a_subnet_is_refused" {
  command = plan
  variables {
    masters = { cp-1 = { zone = "eu-central-1d" }, cp-2 = {}, cp-3 = {} }
  }
  expect_failures = [aws_instance.k8s_master]
}

run "one_zone_for_three_masters_is_refused" {
  command = plan
  variables {
    subnet_ids = { eu-central-1a = "subnet-a" }
  }
  expect_failures = [aws_lb.api, check.zones]
}

run "two_zones_for_three_masters_are_warned_of" {
  command = plan
  variables {
    subnet_ids = { eu-central-1a = "subnet-a", eu-central-1b = "subnet-b" }
  }
  expect_failures = [check.zones]
}

run "an_adopted_master_keeps_what_it_has" {
  command = plan

  variables {
    masters = {
      k8s-master = {
        zone    = "eu-central-1a"
        adopted = { instance_type = "t3.medium", security_group_ids = ["sg-old"], tags = { Name = "k8s-master" } }
      }
      cp-2 = {}
      cp-3 = {}
    }
  }

  assert {
    condition     = aws_instance.k8s_master["k8s-master"].instance_type == "t3.medium" && aws_instance.k8s_master["k8s-master"].tags.Name == "k8s-master"
    error_message = "Its type and its name."
  }
  assert {
    condition     = length(aws_instance.k8s_master["k8s-master"].root_block_device) == 0 && length(aws_instance.k8s_master["k8s-master"].metadata_options) == 0 && length(aws_instance.k8s_master["k8s-master"].credit_specification) == 0
    error_message = "Nothing is said of disks, metadata options and credits."
  }
  assert {
    condition     = keys(aws_ebs_volume.etcd) == ["cp-2", "cp-3"]
    error_message = "etcd stays where it is on the adopted machine."
  }
}

run "another_type_for_one_master" {
  command = plan

  variables {
    masters = { cp-1 = {}, cp-2 = { instance_type = "m6i.xlarge" }, cp-3 = {} }
  }

  assert {
    condition     = aws_instance.k8s_master["cp-2"].instance_type == "m6i.xlarge" && aws_instance.k8s_master["cp-1"].instance_type == "t3.large"
    error_message = "One machine at a time can be made larger."
  }
  assert {
    condition     = length(aws_instance.k8s_master["cp-2"].credit_specification) == 0 && aws_instance.k8s_master["cp-1"].credit_specification[0].cpu_credits == "unlimited"
    error_message = "Credits are for burstable machines."
  }
}

run "workers_spread_over_zones" {
  command = plan

  variables {
    worker_count = 4
  }

  assert {
    condition     = [for name in ["w-1", "w-2", "w-3", "w-4"] : aws_instance.k8s_worker[name].subnet_id] == ["subnet-a", "subnet-b", "subnet-c", "subnet-a"]
    error_message = "Four workers over three zones."
  }
}

run "etcd_on_the_root_volume_where_asked_for" {
  command = plan

  variables {
    etcd_volume = null
  }

  assert {
    condition     = length(aws_ebs_volume.etcd) == 0 && length(aws_volume_attachment.etcd) == 0
    error_message = "No further volume."
  }
}

run "a_private_key_in_user_data_is_refused" {
  command = plan
  variables {
    user_data = "-----BEGIN RSA PRIVATE KEY-----"
  }
  expect_failures = [var.user_data]
}

run "a_bootstrap_token_in_user_data_is_refused" {
  command = plan
  variables {
    user_data = "kubeadm join --token abcdef.0123456789abcdef"
  }
  expect_failures = [var.user_data]
}

run "a_name_that_a_balancer_cannot_have_is_refused" {
  command = plan
  variables {
    name = "a-name-that-is-far-too-long-for-aws"
  }
  expect_failures = [var.name]
}
