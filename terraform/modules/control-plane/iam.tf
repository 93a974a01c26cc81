# What the machines may do at AWS: nothing, unless the reader adds policies. The profiles are there all the same, because attaching one to a
# machine later is a change of the machine, and attaching a policy to a role is not.

data "aws_iam_policy_document" "ec2" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "master" {
  name                 = "${var.name}-master"
  assume_role_policy   = data.aws_iam_policy_document.ec2.json
  permissions_boundary = var.iam_permissions_boundary
  tags                 = local.tags
}

resource "aws_iam_role_policy_attachment" "master" {
  for_each = var.master_policy_arns

  role       = aws_iam_role.master.name
  policy_arn = each.value
}

resource "aws_iam_instance_profile" "master" {
  name = "${var.name}-master"
  role = aws_iam_role.master.name
  tags = local.tags
}

resource "aws_iam_role" "worker" {
  count = var.worker_count > 0 ? 1 : 0

  name                 = "${var.name}-worker"
  assume_role_policy   = data.aws_iam_policy_document.ec2.json
  permissions_boundary = var.iam_permissions_boundary
  tags                 = local.tags
}

resource "aws_iam_role_policy_attachment" "worker" {
  for_each = var.worker_count > 0 ? var.worker_policy_arns : {}

  role       = aws_iam_role.worker[0].name
  policy_arn = each.value
}

resource "aws_iam_instance_profile" "worker" {
  count = var.worker_count > 0 ? 1 : 0

  name = "${var.name}-worker"
  role = aws_iam_role.worker[0].name
  tags = local.tags
}
