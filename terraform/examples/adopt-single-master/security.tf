# Unchanged: the old endpoint is in use until every client has the new one.

resource "aws_security_group" "k8s_master" {
  # checkov:skip=CKV_AWS_382:It was so; tightening it is for after the change, when the old endpoint is out of use
  name        = "k8s-master"
  description = "Kubernetes master"
  vpc_id      = aws_vpc.k8s.id

  ingress {
    description = "API"
    from_port   = 6443
    to_port     = 6443
    protocol    = "tcp"
    cidr_blocks = ["10.30.0.0/16", "198.51.100.0/24"]
  }

  ingress {
    description = "Everything inside the VPC"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["10.30.0.0/16"]
  }

  egress {
    description = "Everything"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_security_group" "k8s_worker" {
  # checkov:skip=CKV_AWS_382:It was so; tightening it is for after the change, when the old endpoint is out of use
  name        = "k8s-worker"
  description = "Kubernetes workers"
  vpc_id      = aws_vpc.k8s.id

  ingress {
    description = "Everything inside the VPC"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["10.30.0.0/16"]
  }

  egress {
    description = "Everything"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}
