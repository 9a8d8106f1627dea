"""What CloudFormation makes of the SAM template, without an account.

Reads every template named, and writes beside it what it becomes, as JSON. Linters
see only there what SAM makes of event sources. A template that cannot be
transformed gets no JSON; the reason goes to stderr, and the exit status is 1.
"""

import json
import os
import sys

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


def transform(source):
    with open(source, encoding="utf-8") as file:
        template = yaml_parse(file.read())
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            # Where `sam package` puts the address of what it has uploaded.
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    return Translator(NoManagedPolicies().load(), Parser()).translate(template, {})


def main():
    failed = False
    for source in sys.argv[1:]:
        try:
            transformed = transform(source)
        except Exception as error:
            print(f"transform {source}: {getattr(error, 'message', error)}", file=sys.stderr)
            failed = True
            continue
        with open(os.path.splitext(source)[0] + ".json", "w", encoding="utf-8") as file:
            json.dump(transformed, file, indent=2)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
