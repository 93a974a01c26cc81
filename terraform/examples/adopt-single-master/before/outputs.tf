output "master_address" {
  description = "The old endpoint: the master's own address."
  value       = aws_instance.k8s_master.private_ip
}
