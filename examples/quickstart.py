"""The three models of the catalogue, called with plain requests: `make run` in one terminal, this in another."""

import base64
import json

from demo import ROOT, checked, demo

EXAMPLES = ROOT / "examples"


def main() -> None:
    base_url, session = demo()

    print("iris: rows in, species out")
    rows = json.loads((EXAMPLES / "iris" / "sample.json").read_text())
    answer = checked(session.post(f"{base_url}/api/v1/models/iris/predict", json=rows, timeout=30))
    for row, prediction in zip(rows["inputs"], answer["predictions"], strict=True):
        print(f"  {list(row.values())} → {prediction['label']} ({prediction['confidence']:.3f})")

    print("digits: an image in, as base64 and as a file")
    image = (EXAMPLES / "digits" / "sample.png").read_bytes()
    body = {"inputs": [base64.b64encode(image).decode()], "top": 3}
    answer = checked(session.post(f"{base_url}/api/v1/models/digits/predict", json=body, timeout=30))
    print("  base64 →", ", ".join(f"{p['label']} ({p['confidence']:.3f})" for p in answer["predictions"][0]["top"]))
    files = {"file": ("sample.png", image, "image/png")}
    answer = checked(session.post(f"{base_url}/api/v1/models/digits/predict", files=files, timeout=30))
    print("  file   →", answer["predictions"][0]["label"])

    print("language: text in, language out")
    texts = json.loads((EXAMPLES / "language" / "sample.json").read_text())
    answer = checked(session.post(f"{base_url}/api/v1/models/language/predict", json=texts, timeout=30))
    for text, prediction in zip(texts["inputs"], answer["predictions"], strict=True):
        print(f"  {prediction['label']} ({prediction['confidence']:.3f}) {text}")

    print("iris again, by the Open Inference Protocol V2")
    tensor = {"name": "measurements", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
    body = {"id": "quickstart", "inputs": [tensor]}
    answer = checked(session.post(f"{base_url}/v2/models/iris/infer", json=body, timeout=30))
    output = answer["outputs"][0]
    print(f"  id {answer['id']}: {output['name']} {output['datatype']} {output['shape']} {output['data']}")


if __name__ == "__main__":
    main()
