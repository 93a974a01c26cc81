resource "aws_security_group" "k8s_master" {
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
