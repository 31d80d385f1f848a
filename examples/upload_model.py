"""A model of one's own: build a small ONNX file, upload it, wait for the verdict of the intake, call it, and delete it."""

import argparse
import json
import secrets
import time

import numpy as np
import onnx
import requests
from demo import checked, demo
from onnx import TensorProto, helper, numpy_helper

WAIT = 60  # seconds for the intake


def fahrenheit_model() -> bytes:
    """celsius (n, 1) float32 → fahrenheit (n, 1) float32; n is free, so that calls can share a run."""
    weights = {"factor": np.array([1.8], np.float32), "offset": np.array([32], np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["celsius", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["fahrenheit"]),
        ],
        "fahrenheit",
        [helper.make_tensor_value_info("celsius", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("fahrenheit", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def wait_until_decided(session: requests.Session, url: str) -> dict:
    """The version once it is ready or rejected."""
    end = time.monotonic() + WAIT
    while True:
        version = checked(session.get(url, timeout=30))
        if version["state"] != "validating":
            return version
        if time.monotonic() > end:
            raise SystemExit(f"still {version['state']} after {WAIT} s")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="do not delete the model at the end")
    keep = parser.parse_args().keep
    base_url, session = demo()
    name = f"fahrenheit-{secrets.token_hex(3)}"
    models = f"{base_url}/api/v1/models"

    checked(session.post(models, json={"name": name, "task": "tabular", "description": "°C to °F"}, timeout=30))
    try:
        files = {"artifact": ("fahrenheit.onnx", fahrenheit_model(), "application/octet-stream")}
        manifest = json.dumps({"version": "1.0.0", "task": "tabular", "features": ["celsius"]})
        uploaded = checked(session.post(f"{models}/{name}/versions", files=files, data={"manifest": manifest}, timeout=60))
        print(f"uploaded {name} {uploaded['version']}, digest {uploaded['digest']}: {uploaded['state']}")
        version = wait_until_decided(session, f"{models}/{name}/versions/{uploaded['version']}")
        print(f"{version['state']}: {json.dumps(version['verdict'])}")
        if version["state"] == "ready":
            answer = checked(session.post(f"{models}/{name}/predict", json={"inputs": [[0], [37], [100]]}, timeout=30))
            print("0, 37 and 100 °C are", answer["predictions"], "°F")
    finally:
        if not keep:
            session.delete(f"{models}/{name}", timeout=30).raise_for_status()
            print(f"deleted {name}")


if __name__ == "__main__":
    main()
