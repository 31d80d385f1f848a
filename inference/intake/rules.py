"""The rules of intake: a stable code for each, and the sentence that the uploader reads. docs/models.md lists them."""

import re
from typing import Any

RULES = {
    # of the file
    "not_onnx": "The file must be one bare ONNX model (a serialized ModelProto).",
    "ort_format": "Models in ONNX Runtime's own format (.ort) are not taken; upload the ONNX file.",
    "ir_version": "The IR version must be one that the platform knows.",
    "opset_version": "The operator-set version must be one that the platform knows.",
    "training_info": "Training information is not taken; export the model for inference.",
    "signature_too_large": "A model has 1 to 256 inputs and 1 to 256 outputs, with names of at most 200 characters.",
    "signature_name": "Names of inputs and outputs must be text without control characters, each another.",
    # of its tensors
    "external_data": "All weights must be inside the file; external data is never read.",
    "tensor_type": "A tensor must have a type that the platform runs.",
    "tensor_bytes": "A tensor must carry as many values as its dimensions say.",
    "tensor_too_large": "A tensor may have at most 2^31 elements.",
    # of its operators
    "operator_domain": "Operators must be ONNX's own (ai.onnx, ai.onnx.ml), functions of the model, or listed others.",
    "function_domain": "A function of the model must not redefine an operator of ONNX or ONNX Runtime.",
    "function_recursion": "A function must not call itself, directly or through others.",
    "function_expansion": "A model may have at most 50,000 nodes once its functions are expanded.",
    "nesting": "Functions and subgraphs may be nested at most 8 deep.",
    # of loading and running it
    "load_failed": "The model must load.",
    "load_timeout": "The model must load within 30 seconds of processor time.",
    "run_timeout": "One run on one row must end within 10 seconds of processor time.",
    "memory": "Loading the model and running one row must fit into the memory that a model may take.",
    "crashed": "The model must not crash the process that runs it.",
    "unsupported_type": "Inputs and outputs must be tensors of numbers, booleans or text.",
    "deadline": "Intake must end in time.",
    # of the manifest
    "unknown_input": "Inputs that the manifest names must exist, with a type that fits.",
    "unknown_output": "Outputs that the manifest names must exist.",
    "labels_mismatch": "The manifest must have one label for each column of the scores.",
    "features_mismatch": "The manifest must have one feature for each column of the input.",
    "tokenizer": "The tokenizer must be one that the tokenizers library reads, and must read texts within its limits.",
    "preprocessing_mismatch": "What the declared preprocessing makes must be what the model takes.",
    # of ours
    "intake_failed": "The platform could not examine the model. Nothing is known against it; upload it again.",
}

NO_TEXT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Characters that a file can name things with, but that no answer or table should have to carry."""


def is_text(name: str | bytes) -> bool:
    """Whether it can be shown and stored as it is. A model's file gives bytes for what is not UTF-8."""
    return isinstance(name, str) and not NO_TEXT.search(name)


Verdict = dict[str, Any]
"""JSON for the uploader: `result` is ready or rejected; a rejected one has `code`, `rule`, `detail`, `node` and `measured`."""


class Rejected(Exception):
    """The model breaks a rule. `node` says where, `measured` what was found."""

    def __init__(self, code: str, detail: str, *, node: str = "", **measured: Any) -> None:  # Any: JSON values
        super().__init__(detail)
        self.code, self.detail, self.node, self.measured = code, detail, node, measured

    def verdict(self) -> Verdict:
        return rejection(self.code, self.detail, node=self.node, measured=self.measured)


def rejection(code: str, detail: str, *, node: str = "", measured: dict[str, Any] | None = None) -> Verdict:  # Any: JSON
    """The verdict of a rejected version."""
    return {
        "result": "rejected",
        "code": code,
        "rule": RULES[code],
        "detail": NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", detail[:1000]),
        "node": NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", node[:300]) or None,
        "measured": measured or {},
    }
