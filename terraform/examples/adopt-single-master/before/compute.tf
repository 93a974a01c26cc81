# What was there: one master and one worker, set up by hand or by a playbook with `kubeadm init`.

resource "aws_instance" "k8s_master" {
  ami                    = var.ami_id
  instance_type          = "t3.medium"
  subnet_id              = aws_subnet.public.id
  vpc_security_group_ids = [aws_security_group.k8s_master.id]
  user_data              = "#!/bin/sh\nhostnamectl set-hostname k8s-master\n"

  root_block_device {
    volume_size = 20
  }

  tags = { Name = "k8s-master" }
}

resource "aws_instance" "k8s_worker" {
  ami                    = var.ami_id
  instance_type          = "t3.medium"
  subnet_id              = aws_subnet.public.id
  vpc_security_group_ids = [aws_security_group.k8s_worker.id]

  root_block_device {
    volume_size = 20
  }

  tags = { Name = "k8s-worker" }
}
