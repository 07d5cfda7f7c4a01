"""What protovalidate says of messages of type t.M: a line {"set": hex, "messages": [hex, ...]} in, a list of lists of rules' ids out;
null where it gives up."""

import json
import sys

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

for line in sys.stdin:
    asked = json.loads(line)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(bytes.fromhex(asked["set"])).file:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.M"))
    validator = protovalidate.Validator()
    rows = []
    for message in asked["messages"]:
        try:
            found = validator.collect_violations(kind.FromString(bytes.fromhex(message)))
            rows.append([violation.proto.rule_id for violation in found])
        except protovalidate.EvaluationError:
            rows.append(None)
    print(json.dumps(rows), flush=True)
