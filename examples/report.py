"""What the three training scripts share: the model's frame, its scores, and the files they leave."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

OPSET, IR_VERSION = 17, 8


def model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """A checked model of the standard operators; equal arguments give equal bytes."""
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(result, full_check=True)
    return result


def scores(truth: np.ndarray, answers: np.ndarray, labels: list[str]) -> dict[str, Any]:
    """Accuracy, and per label precision, recall, F1 and support, of two (n,) arrays of label numbers. Rounded to 4 places."""
    per_label = {}
    for number, label in enumerate(labels):
        hits = int(((truth == number) & (answers == number)).sum())
        said, support = int((answers == number).sum()), int((truth == number).sum())
        precision, recall = hits / max(said, 1), hits / max(support, 1)
        f1 = 2 * hits / max(said + support, 1)
        values = {"precision": precision, "recall": recall, "f1": f1}
        per_label[label] = {name: round(value, 4) for name, value in values.items()} | {"support": support}
    return {"examples": len(truth), "accuracy": round(float((truth == answers).mean()), 4), "per_label": per_label}


def table(result: dict[str, Any]) -> str:
    """The scores as a Markdown table, for the model card."""
    lines = ["| label | precision | recall | F1 | examples |", "|---|---|---|---|---|"]
    for label, of in result["per_label"].items():
        lines.append(f"| {label} | {of['precision']:.3f} | {of['recall']:.3f} | {of['f1']:.3f} | {of['support']} |")
    return "\n".join(lines)


def write(folder: Path, onnx_model: onnx.ModelProto, manifest: dict[str, Any], results: dict[str, Any]) -> None:
    """model.onnx, manifest.json and scores.json, and the tables of README.md between their marks."""
    (folder / "model.onnx").write_bytes(onnx_model.SerializeToString(deterministic=True))
    text = json.dumps(manifest, ensure_ascii=False, indent=None if "tokenizer" in manifest else 2)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    (folder / "scores.json").write_text(json.dumps(results, indent=2) + "\n")
    card = folder / "README.md"
    if card.exists():
        text = card.read_text(encoding="utf-8")
        for name, result in results.items():
            if isinstance(result, dict):
                text = fill(text, name, result)
        card.write_text(text, encoding="utf-8")
    for name, result in results.items():
        if isinstance(result, dict):
            print(f"{folder.name} {name}: accuracy {result['accuracy']:.4f} of {result['examples']}")


def fill(card: str, name: str, result: dict[str, Any]) -> str:
    """The card with the text between <!-- name --> and <!-- /name --> replaced by these scores."""
    head, mark, rest = card.partition(f"<!-- {name} -->\n")
    if not mark:
        return card
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    accuracy = f"Accuracy **{100 * result['accuracy']:.2f} %** of {result['examples']} examples.\n\n"
    return f"{head}{mark}{accuracy}{table(result)}\n{end}{tail}"
