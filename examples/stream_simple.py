#!/usr/bin/env python3
"""The shortest stream handler for fencepost: fencepost run FILE --stream -- python3 examples/stream_simple.py"""

import json
import sys

for line in sys.stdin:
    row = json.loads(line)
    result = {"columns": len(row["input"])}
    print(json.dumps({"line": row["line"], "token": row["token"], "status": "success", "result": result}), flush=True)
