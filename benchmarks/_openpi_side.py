"""The unmodified openpi-client in an interpreter of its own: asked over JSON lines by `openpi_interop.py`.

Its argument is a JSON object with the server's `host` and `port`. Requests: {"connect": true} opens a new connection;
{"arrays": {key: [dtype, shape, base64]}, "prompt": text} is put through `infer`.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import sys

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def answered(policy: WebsocketClientPolicy, request: dict) -> dict:
    seen = {"prompt": request["prompt"]}
    for key, (dtype, shape, text) in request["arrays"].items():
        seen[key] = np.frombuffer(base64.b64decode(text), dtype).reshape(shape)
    try:
        actions = policy.infer(seen)["actions"]
    except RuntimeError as error:
        return {"error": str(error)}
    # float32 numbers survive JSON: their decimal form as doubles is exact
    return {"dtype": actions.dtype.str, "actions": actions.tolist()}


def main() -> None:
    settings = json.loads(sys.argv[1])
    versions = {
        name: importlib.metadata.version(name) for name in ("openpi-client", "websockets", "numpy")
    }
    print(json.dumps({"versions": versions}), flush=True)
    policy = None
    for line in sys.stdin:
        request = json.loads(line)
        if "connect" in request:
            policy = WebsocketClientPolicy(settings["host"], settings["port"])
            answer = {"metadata": sorted(policy.get_server_metadata())}
        else:
            answer = answered(policy, request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
