terraform {
  # OpenTofu counts alike: its 1.6 began where Terraform's 1.6 did.
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7.0"
    }
  }
}
