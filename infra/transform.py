"""What CloudFormation makes of the SAM template, without an account.

Reads the template that the first argument names, and writes the transformed one
as JSON to the second. Linters see only here what SAM's event sources become.
"""

import json
import os
import sys

import yaml

# The transform asks for it when it names partitions. No call is made.
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from samtranslator.parser.parser import Parser  # noqa: E402
from samtranslator.public.translator import ManagedPolicyLoader  # noqa: E402
from samtranslator.translator.translator import Translator  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402


class NoManagedPolicies(ManagedPolicyLoader):
    """The template names no managed policy, so nobody needs to ask IAM for their list."""

    def __init__(self):
        super().__init__(None)

    def load(self):
        return {}


def main():
    source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        template = yaml_parse(file.read())
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            # Where `sam package` puts the address of what it has uploaded.
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    try:
        transformed = Translator(NoManagedPolicies().load(), Parser()).translate(template, {})
    except Exception as error:
        sys.exit(f"transform {source}: {getattr(error, 'message', error)}")
    with open(target, "w", encoding="utf-8") as file:
        json.dump(transformed, file, indent=2)


if __name__ == "__main__":
    main()
