# Machines. `aws_instance.k8s_master` is called so that an instance of that name, made before this module, moves in with a `moved` block and
# stays what it is.

resource "aws_instance" "k8s_master" {
  # checkov:skip=CKV_AWS_126:Detailed monitoring is the reader's choice, variable detailed_monitoring
  # checkov:skip=CKV_AWS_135:EBS-optimised is on by default for every type of the current generation, and no choice on them
  for_each = local.masters

  ami           = var.ami_id
  instance_type = each.value.instance_type

  # Where it has a say an adopted machine keeps what it has: null leaves a computed attribute alone.
  subnet_id                   = each.value.adopted == null ? lookup(var.subnet_ids, coalesce(each.value.zone, "none"), null) : null
  key_name                    = each.value.adopted == null ? var.key_name : null
  iam_instance_profile        = each.value.adopted == null ? aws_iam_instance_profile.master.name : null
  associate_public_ip_address = each.value.adopted == null ? false : null
  monitoring                  = each.value.adopted == null ? var.detailed_monitoring : null
  source_dest_check           = each.value.adopted == null ? true : each.value.adopted.source_dest_check
  user_data                   = each.value.adopted == null ? var.user_data : null

  # Instead of prevent_destroy, which must be a literal and so forbids shrinking and replacing too.
  disable_api_termination = each.value.adopted == null ? var.protection : null

  # An adopted machine keeps its own groups, its old rules for 6443 among them: somebody still uses the old address.
  vpc_security_group_ids = concat(
    each.value.adopted == null ? var.additional_security_group_ids : each.value.adopted.security_group_ids,
    [aws_security_group.node.id, aws_security_group.master.id],
  )

  dynamic "metadata_options" {
    for_each = each.value.adopted == null ? [1] : []
    content {
      http_endpoint = "enabled"
      http_tokens   = "required"
      # A pod is one hop further than its host: with 2 every pod could ask for the machine's credentials.
      http_put_response_hop_limit = 1
      instance_metadata_tags      = "disabled"
    }
  }

  dynamic "credit_specification" {
    # Out of credits a burstable master is slow enough for etcd to lose its leader. Costs only when used.
    for_each = each.value.adopted == null && startswith(each.value.instance_type, "t") ? [1] : []
    content {
      cpu_credits = "unlimited"
    }
  }

  dynamic "root_block_device" {
    for_each = each.value.adopted == null ? [1] : []
    content {
      volume_type = "gp3"
      volume_size = var.root_volume_size
      encrypted   = true
      kms_key_id  = var.kms_key_id
      tags        = merge(local.tags, { Name = "${var.name}-${each.key}-root" })
    }
  }

  tags = merge(
    local.tags,
    { Name = "${var.name}-${each.key}", "quorate/role" = "master", "quorate/node" = each.key },
    each.value.adopted == null ? {} : each.value.adopted.tags,
  )

  lifecycle {
    # Each of them would replace the machine, and with it a voter of etcd: of all masters at once. A newer image, another key pair or another
    # KMS key are for machines to come; a master never moves, and an address that somebody attached to it is no reason to make it anew.
    ignore_changes = [ami, user_data, user_data_base64, subnet_id, key_name, associate_public_ip_address, root_block_device[0].kms_key_id]

    precondition {
      condition     = each.value.adopted != null || contains(local.zones, coalesce(each.value.zone, "none"))
      error_message = "Master ${each.key} is to stand in ${coalesce(each.value.zone, "no zone (its name ends in no number, so say which)")}, and subnet_ids has a subnet in ${join(", ", local.zones)}."
    }
  }
}

# etcd's disk. `quorate apply` formats it when nothing is on it, mounts it, and gives etcd a directory below the mount, because kubeadm refuses a
# data directory that holds lost+found.
resource "aws_ebs_volume" "etcd" {
  # checkov:skip=CKV_AWS_189:Encrypted with the account's key unless the reader names one, variable kms_key_id
  # checkov:skip=CKV2_AWS_9:A backup of etcd is a snapshot that etcd made and that was restored once; a copy of its disk is neither
  for_each = { for name, master in local.masters : name => master if master.adopted == null && var.etcd_volume != null }

  # Of a master without a zone: it is refused above.
  availability_zone = coalesce(each.value.zone, local.zones[0])
  type              = "gp3"
  size              = var.etcd_volume.size
  iops              = var.etcd_volume.iops
  throughput        = var.etcd_volume.throughput
  encrypted         = true
  kms_key_id        = var.kms_key_id

  tags = merge(local.tags, { Name = "${var.name}-${each.key}-etcd", "quorate/node" = each.key })

  lifecycle {
    # A change here means another volume, without the data.
    ignore_changes = [availability_zone, snapshot_id, kms_key_id]
  }
}

resource "aws_volume_attachment" "etcd" {
  for_each = aws_ebs_volume.etcd

  # What the API calls it. On current machines the disk appears as /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol… (the id without its dash).
  device_name = "/dev/sdf"
  volume_id   = each.value.id
  instance_id = aws_instance.k8s_master[each.key].id

  # Terraform never takes the disk from under a running etcd. It goes with its machine.
  skip_destroy = true
}

resource "aws_instance" "k8s_worker" {
  # checkov:skip=CKV_AWS_126:Detailed monitoring is the reader's choice, variable detailed_monitoring
  # checkov:skip=CKV_AWS_135:EBS-optimised is on by default for every type of the current generation, and no choice on them
  for_each = toset(local.worker_names)

  ami                         = var.ami_id
  instance_type               = var.worker_instance_type
  subnet_id                   = var.subnet_ids[local.zone_by_number[each.key]]
  key_name                    = var.key_name
  iam_instance_profile        = aws_iam_instance_profile.worker[0].name
  associate_public_ip_address = false
  monitoring                  = var.detailed_monitoring
  user_data                   = var.user_data
  vpc_security_group_ids      = concat(var.additional_security_group_ids, [aws_security_group.node.id, aws_security_group.worker.id])

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = var.root_volume_size
    encrypted   = true
    kms_key_id  = var.kms_key_id
    tags        = merge(local.tags, { Name = "${var.name}-${each.key}-root" })
  }

  tags = merge(local.tags, { Name = "${var.name}-${each.key}", "quorate/role" = "worker", "quorate/node" = each.key })

  lifecycle {
    # As for masters: what would replace every worker at once is for workers to come.
    ignore_changes = [ami, user_data, user_data_base64, subnet_id, key_name, associate_public_ip_address, root_block_device[0].kms_key_id]
  }
}
