# What was `aws_instance.k8s_master` moves into the module and stays what it is; two masters come beside it. Read the plan before you apply:
# of the old machine it may change tags and add security groups, and nothing else.

moved {
  from = aws_instance.k8s_master
  to   = module.control_plane.aws_instance.k8s_master["k8s-master"]
}

module "control_plane" {
  source = "../../modules/control-plane"

  name   = var.name
  vpc_id = aws_vpc.k8s.id
  subnet_ids = {
    "${var.region}a" = aws_subnet.public.id
    "${var.region}b" = aws_subnet.further["b"].id
    "${var.region}c" = aws_subnet.further["c"].id
  }

  masters = {
    # Called as its node is called. What it has now, word for word from the old compute.tf.
    k8s-master = {
      zone = "${var.region}a"
      adopted = {
        instance_type      = "t3.medium"
        security_group_ids = [aws_security_group.k8s_master.id]
        tags               = { Name = "k8s-master" }
      }
    }
    # By their numbers they stand in the second and the third zone.
    cp-2 = {}
    cp-3 = {}
  }

  ami_id        = var.ami_id
  key_name      = var.key_name
  protection    = var.protection
  endpoint_host = var.endpoint_host
  dns           = "private_zone"
}

# The old worker stays outside the module. It gets two groups more, so that pods on the new masters and it can talk, and it reaches the balancer.
resource "aws_instance" "k8s_worker" {
  # checkov:skip=CKV_AWS_79:It was so; metadata options are changed when its workloads are known to bear it
  # checkov:skip=CKV_AWS_126:It was so; this change adds groups and touches nothing else
  # checkov:skip=CKV_AWS_135:It was so; this change adds groups and touches nothing else
  # checkov:skip=CKV2_AWS_41:It was so; this change adds groups and touches nothing else
  ami           = var.old_ami_id
  instance_type = "t3.medium"
  subnet_id     = aws_subnet.public.id
  vpc_security_group_ids = [
    aws_security_group.k8s_worker.id,
    module.control_plane.security_group_ids.node,
    module.control_plane.security_group_ids.worker,
  ]

  root_block_device {
    volume_size = 20
  }

  tags = { Name = "k8s-worker" }
}
