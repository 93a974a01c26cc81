variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "ami_id" {
  description = "Image of the machines."
  type        = string
}
