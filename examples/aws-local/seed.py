"""Puts first values into the stores of a manifest, as their users do without
tagstore: with boto3. What is there already is left as it is.

usage: seed.py MANIFEST ORDER-TABLE NAMESPACE/SERVICE
"""

import sys

import boto3
import yaml
from botocore.exceptions import ClientError

# The two shapes that the stores are read in unchanged: an item for each
# configuration of a tenant, a parameter for each setting of a tenant's service.
ITEMS = [
    {
        "pk": "TENANT#acme-corp",
        "sk": "CONFIG#payment-gateway",
        "config": {
            "providers": [
                {
                    "name": "Stripe",
                    "apiEndpoint": "https://api.stripe.com",
                    "retryPolicy": "exponential",
                }
            ]
        },
        "isActive": True,
        "version": 2,
        "createdAt": "2024-01-15T10:30:00Z",
        "updatedAt": "2024-02-20T14:45:00Z",
    },
    {
        "pk": "TENANT#acme-corp",
        "sk": "CONFIG#order-limits",
        "config": {"minAmount": 50000, "maxAmount": 5000000, "maxItems": 100},
        "isActive": True,
        "version": 1,
        "createdAt": "2024-01-15T10:30:00Z",
        "updatedAt": "2024-01-15T10:30:00Z",
        "reviewedBy": "sales",  # an attribute that tagstore does not know
    },
    {
        "pk": "TENANT#globex-inc",
        "sk": "CONFIG#payment-gateway",
        "config": {
            "providers": [
                {
                    "name": "PayPal",
                    "apiEndpoint": "https://api-m.paypal.com",
                    "retryPolicy": "linear",
                }
            ]
        },
        "isActive": True,
        "version": 1,
        "createdAt": "2024-01-16T09:00:00Z",
        "updatedAt": "2024-01-16T09:00:00Z",
    },
    {
        "pk": "TENANT#globex-inc",
        "sk": "CONFIG#order-limits",
        "config": {"minAmount": 10000, "maxAmount": 1000000, "maxItems": 50},
        "isActive": True,
        "version": 1,
        "createdAt": "2024-01-16T09:00:00Z",
        "updatedAt": "2024-01-16T09:00:00Z",
    },
]

PARAMETERS = {
    "acme-corp/api/api-key": ("SecureString", "acme-api-key"),
    "acme-corp/api/endpoint": ("String", "https://api.acme-corp.example"),
    "acme-corp/database/connection-string": ("SecureString", "postgres://db.acme-corp.example/orders"),
    "globex-inc/api/api-key": ("SecureString", "globex-api-key"),
    "globex-inc/api/endpoint": ("String", "https://api.globex-inc.example"),
    "globex-inc/database/connection-string": ("SecureString", "postgres://db.globex-inc.example/orders"),
    # What all tenants share.
    "_shared/currency": ("String", '{"code": "USD", "exponent": 2}'),
}

OBJECTS = {
    "acme-corp/_/terms.txt": ("text/plain", "The terms of acme-corp.\n" * 20000),
    "globex-inc/_/terms.txt": ("text/plain", "The terms of globex-inc.\n" * 20000),
}

SECRETS = {
    "acme-corp/payments-key": "acme-payments-key",
    "globex-inc/payments-key": "globex-payments-key",
}


def unless(codes, call, **arguments):
    """Makes a call and reports whether it did something; one of these error
    codes says that there was nothing to do."""
    try:
        call(**arguments)
        return True
    except ClientError as error:
        if error.response["Error"]["Code"] in codes:
            return False
        raise


def create_table(dynamodb, name):
    stream = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
    made = unless(
        ["ResourceInUseException"],
        dynamodb.create_table,
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        StreamSpecification=stream,
    )
    if not made and not dynamodb.describe_table(TableName=name)["Table"].get("StreamSpecification"):
        dynamodb.update_table(TableName=name, StreamSpecification=stream)
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def seed_items(table):
    return sum(
        unless(
            ["ConditionalCheckFailedException"],
            table.put_item,
            Item=item,
            ConditionExpression="attribute_not_exists(pk)",
        )
        for item in ITEMS
    )


def seed_parameters(ssm, root):
    return sum(
        unless(["ParameterAlreadyExists"], ssm.put_parameter, Name=root + name, Type=kind, Value=value)
        for name, (kind, value) in PARAMETERS.items()
    )


def seed_objects(s3, bucket, root):
    unless(["BucketAlreadyOwnedByYou"], s3.create_bucket, Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return sum(
        unless(
            ["PreconditionFailed"],
            s3.put_object,
            Bucket=bucket,
            Key=root + name,
            ContentType=kind,
            Body=text.encode(),
            IfNoneMatch="*",
        )
        for name, (kind, text) in OBJECTS.items()
    )


def seed_secrets(secrets, root):
    return sum(
        unless(["ResourceExistsException"], secrets.create_secret, Name=root + name, SecretString=value)
        for name, value in SECRETS.items()
    )


def create_registry(cloud_map, namespace, service):
    """Makes the Cloud Map service in which the replicas register themselves."""

    def find():
        for page in cloud_map.get_paginator("list_namespaces").paginate():
            for found in page["Namespaces"]:
                if found["Name"] == namespace:
                    return found["Id"]

    if not find():
        cloud_map.create_http_namespace(Name=namespace)
    id = find()
    for page in cloud_map.get_paginator("list_services").paginate():
        for found in page["Services"]:
            # The emulator lists the services of every namespace.
            if found["Name"] == service and cloud_map.get_service(Id=found["Id"])["Service"]["NamespaceId"] == id:
                return
    cloud_map.create_service(Name=service, NamespaceId=id)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        backends = yaml.safe_load(file)["backends"]
    options = {name: backend["options"] for name, backend in backends.items()}

    def before_tenant(path):
        return path[: path.index("{tenant}")]

    dynamodb = boto3.resource("dynamodb")
    for name in (options["tenants"]["table"], sys.argv[2]):
        create_table(dynamodb.meta.client, name)
    create_registry(boto3.client("servicediscovery"), *sys.argv[3].split("/"))
    added = {
        "items": seed_items(dynamodb.Table(options["tenants"]["table"])),
        "parameters": seed_parameters(boto3.client("ssm"), before_tenant(options["params"]["path"])),
        "objects": seed_objects(boto3.client("s3"), options["blobs"]["bucket"], before_tenant(options["blobs"]["path"])),
        "secrets": seed_secrets(boto3.client("secretsmanager"), before_tenant(options["secrets"]["path"])),
    }
    print("added " + ", ".join(f"{count} {what}" for what, count in added.items()), file=sys.stderr)


if __name__ == "__main__":
    main()
