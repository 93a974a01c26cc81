"""moto with a network, three instances and a Network Load Balancer: says what they are as one line of JSON, and ends when its input ends."""

import json
import os
import sys

# Whatever is set here is for somebody else.
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
made = {"endpoint_url": url, "region_name": "eu-central-1", "aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
ec2, elb = boto3.client("ec2", **made), boto3.client("elbv2", **made)

vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
group = ec2.create_security_group(GroupName="master", Description="masters", VpcId=vpc)["GroupId"]
ec2.authorize_security_group_ingress(
    GroupId=group,
    IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 6443, "ToPort": 6443, "IpRanges": [{"CidrIp": "10.0.0.0/16", "Description": "API"}]},
        {"IpProtocol": "tcp", "FromPort": 2379, "ToPort": 2380, "UserIdGroupPairs": [{"GroupId": group}]},
    ],
)
image = ec2.describe_images()["Images"][0]["ImageId"]
subnets, instances = [], []
for number, zone in enumerate(["a", "b", "c"]):
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number * 16}.0/20", AvailabilityZone=f"eu-central-1{zone}")["Subnet"]["SubnetId"]
    subnets.append(subnet)
    run = ec2.run_instances(
        ImageId=image, InstanceType="t3.large", MinCount=1, MaxCount=1, SubnetId=subnet, SecurityGroupIds=[group],
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": f"cp-{number + 1}"}]}],
    )
    instances.append(run["Instances"][0]["InstanceId"])
balancer = elb.create_load_balancer(Name="demo-api", Type="network", Scheme="internal", Subnets=subnets, SecurityGroups=[group])["LoadBalancers"][0]["LoadBalancerArn"]
elb.modify_load_balancer_attributes(LoadBalancerArn=balancer, Attributes=[{"Key": "load_balancing.cross_zone.enabled", "Value": "true"}])
targets = elb.create_target_group(
    Name="demo-api", Protocol="TCP", Port=6443, VpcId=vpc, TargetType="instance", HealthCheckProtocol="HTTPS", HealthCheckPath="/readyz",
    HealthCheckPort="traffic-port", HealthCheckIntervalSeconds=5, HealthCheckTimeoutSeconds=4, HealthyThresholdCount=2, UnhealthyThresholdCount=2, Matcher={"HttpCode": "200"},
)["TargetGroups"][0]["TargetGroupArn"]
elb.modify_target_group_attributes(TargetGroupArn=targets, Attributes=[{"Key": "preserve_client_ip.enabled", "Value": "false"}])
elb.create_listener(LoadBalancerArn=balancer, Protocol="TCP", Port=6443, DefaultActions=[{"Type": "forward", "TargetGroupArn": targets}])

print(json.dumps({"url": url, "group": group, "instances": instances, "balancer": balancer, "target_group": targets}), flush=True)
sys.stdin.read()
server.stop()
