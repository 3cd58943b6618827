#!/usr/bin/env python3
"""A stream handler for fencepost:

    fencepost run FILE --stream -- python3 examples/stream.py

Gets one row per line on stdin and answers each with one line on stdout, in any order. Writing answers down only when
there is nothing left to read saves most of the system calls; `print(..., flush=True)` per row works too, and is what to
start with when rows take longer than a millisecond anyway.
"""

import json
import os


def process(value):
    """What a row is for: replace this. Raise Retry to have the row tried again, anything else to fail it."""
    return {"columns": len(value)}


class Retry(Exception):
    """This row may do better another time."""


def answer(row):
    line, token = row["line"], row["token"]
    try:
        return {"line": line, "token": token, "status": "success", "result": process(row["input"])}
    except Retry as error:
        return {"line": line, "token": token, "status": "retry", "error": str(error)}
    except Exception as error:
        return {"line": line, "token": token, "status": "failed", "error": f"{type(error).__name__}: {error}"}


encode = json.JSONEncoder(separators=(",", ":")).encode


def main():
    rest = b""
    while chunk := os.read(0, 1 << 16):  # waits for rows, and takes all that are there
        *lines, rest = (rest + chunk).split(b"\n")
        # All rows in one call and one encoder for all answers: half the time of json.loads and json.dumps for each.
        rows = json.loads(b"[" + b",".join(lines) + b"]")
        replies = "".join([encode(answer(row)) + "\n" for row in rows])
        reply_bytes = memoryview(replies.encode())
        while reply_bytes:
            reply_bytes = reply_bytes[os.write(1, reply_bytes) :]


if __name__ == "__main__":
    main()
