"""What protovalidate says of messages: a line {"set": hex, "of": [[type, [hex, ...]], ...]} in, a line for each type out: a list of
lists of rules' ids, null where it gives up on a message; or {"refused": why} where it does not take the type's rules."""

import json
import sys

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

for line in sys.stdin:
    asked = json.loads(line)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(bytes.fromhex(asked["set"])).file:
        pool.Add(file)
    validator = protovalidate.Validator()
    for name, messages in asked["of"]:
        kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        rows = []
        try:
            for message in messages:
                try:
                    found = validator.collect_violations(kind.FromString(bytes.fromhex(message)))
                    rows.append([violation.proto.rule_id for violation in found])
                except protovalidate.EvaluationError:
                    rows.append(None)
        except protovalidate.CompilationError as error:
            rows = {"refused": str(error)}
        print(json.dumps(rows), flush=True)
