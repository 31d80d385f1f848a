"""What can be said of an ONNX file without running it (security.md, section 4, pipeline step 2).

Only the protobuf is read. No checker, no shape inference, no version converter: each was exploitable or can be made to run for
minutes; the expansion count here takes milliseconds for a model that unfolds to 2^26 nodes.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from inference.engine.sessions import MAX_EXPANSION_NODES
from inference.intake.rules import Rejected, is_text

MAX_DEPTH = 8  # of functions and subgraphs within each other
HOPELESS_DEPTH = 64  # from here counting stops: it is recursive
MAX_ELEMENTS = 1 << 31
MAX_SIGNATURE = 256  # inputs, and outputs
MAX_NAME = 200
MAX_OPERATORS = 100  # names in the verdict
IR_VERSIONS = range(3, onnx.IR_VERSION + 1)
OPSETS = {"": range(7, onnx.defs.onnx_opset_version() + 1), "ai.onnx.ml": range(1, 6), "com.microsoft": range(1, 2)}
ORT_IDENTIFIER = b"ORTM"  # onnxruntime, core/flatbuffers/schema/ort.fbs: file_identifier

# Contributed operators of ONNX Runtime that converters and its optimizer write. None reads a file or loads code; EPContext,
# which does, must never be here.
CONTRIBUTED = frozenset(
    """
    Attention BiasGelu BiasSoftmax BiasSplitGelu CDist ConvTransposeWithDynamicPads DecoderMaskedMultiHeadAttention
    DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization ExpandDims FastGelu FusedConv
    FusedGemm FusedMatMul GatherBlockQuantized GatherND Gelu GemmFastGelu GridSample GroupNorm GroupQueryAttention
    Inverse LayerNormalization MatMulBnb4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits MaxpoolWithMask
    MultiHeadAttention MurmurHash3 NGramRepeatBlock NhwcMaxPool Pad QAttention QEmbedLayerNormalization QGemm QLinearAdd
    QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
    QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QOrderedAttention QuantizeLinear QuickGelu Range ReduceSumInteger
    RelativePositionBias RotaryEmbedding SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization Tokenizer TransposeMatMul Trilu Unique WordConvEmbedding
    """.split()  # noqa: SIM905  # a list of them would be a page
)
STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})

BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.UINT2, TensorProto.INT2), 2),
    **dict.fromkeys((TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL), 8),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2), 8),
    **dict.fromkeys((TensorProto.FLOAT8E5M2FNUZ, TensorProto.FLOAT8E8M0), 8),
    **dict.fromkeys((TensorProto.UINT16, TensorProto.INT16, TensorProto.FLOAT16, TensorProto.BFLOAT16), 16),
    **dict.fromkeys((TensorProto.UINT32, TensorProto.INT32, TensorProto.FLOAT), 32),
    **dict.fromkeys((TensorProto.UINT64, TensorProto.INT64, TensorProto.DOUBLE), 64),
}
"""Bits of an element, by data type. Complex numbers and the 6-bit floats are not served."""

# onnx.proto, TensorProto: which field carries the values of a type that does not use raw_data.
FIELDS: dict[int, str] = {TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT64: "int64_data"}
FIELDS |= {TensorProto.UINT32: "uint64_data", TensorProto.UINT64: "uint64_data"}

FunctionKey = tuple[str, str, str]


def examine(data: bytes) -> dict[str, Any]:  # Any: JSON
    """The facts of a model that breaks no static rule. Raises Rejected with the first rule that it breaks."""
    model = _parse(data)
    _check_header(model)
    functions = _functions(model)
    facts: dict[str, Any] = {"nodes": 0, "initializers": 0, "initializer_bytes": 0, "operators": set()}
    _check_graph("graph", model.graph, facts, functions)
    for function in model.functions:
        place = f"function {function.name}"
        for attribute in function.attribute_proto:
            _check_attribute(place, attribute, facts, functions)
        _check_nodes(place, function.node, facts, functions)
        _check_values(place, function.value_info)
    facts["expanded_nodes"], facts["depth"] = _expansion(model, functions)
    facts["operators"] = sorted(facts["operators"])[:MAX_OPERATORS]
    facts["ir_version"] = model.ir_version
    facts["opsets"] = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return facts


def _parse(data: bytes) -> ModelProto:
    if data[4:8] == ORT_IDENTIFIER:
        raise Rejected("ort_format", "The file begins like a model in ONNX Runtime's format")
    try:
        model: ModelProto = ModelProto.FromString(data)
    except DecodeError:
        raise Rejected("not_onnx", "The file is not a serialized ModelProto") from None
    if not model.ir_version or not model.HasField("graph") or not model.opset_import:
        raise Rejected("not_onnx", "The file has no IR version, no graph, or imports no operator set")
    return model


def _check_header(model: ModelProto) -> None:
    if model.ir_version not in IR_VERSIONS:
        raise Rejected("ir_version", f"IR version {model.ir_version}; known are {_span(IR_VERSIONS)}", found=model.ir_version)
    _check_opsets("graph", model.opset_import)
    if model.training_info:
        raise Rejected("training_info", "The model carries training information")
    for kind, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        if not 1 <= len(values) <= MAX_SIGNATURE:
            raise Rejected("signature_too_large", f"The graph has {len(values)} {kind}", found=len(values))
        long = next((value.name for value in values if not 1 <= len(value.name) <= MAX_NAME), None)
        if long is not None:
            raise Rejected("signature_too_large", f"One of the {kind} has a name of {len(long)} characters", found=len(long))
        bad = next((value.name for value in values if not is_text(value.name)), None)
        if bad is not None:
            raise Rejected("signature_name", f"One of the {kind} is named {bad!a}")
        twice = next((name for name, count in Counter(value.name for value in values).items() if count > 1), None)
        if twice is not None:
            raise Rejected("signature_name", f"Several of the {kind} are named {twice!a}")


def _check_opsets(place: str, imports: Iterable[onnx.OperatorSetIdProto]) -> None:
    for entry in imports:
        known = OPSETS.get("" if entry.domain == "ai.onnx" else entry.domain)
        if known is not None and entry.version not in known:
            name = entry.domain or "ai.onnx"
            detail = f"{place} imports {name} {entry.version}; known are {_span(known)}"
            raise Rejected("opset_version", detail, node=name, found=entry.version)


def _span(known: range) -> str:
    return f"{known.start} to {known.stop - 1}"


def _functions(model: ModelProto) -> dict[FunctionKey, FunctionProto]:
    functions: dict[FunctionKey, FunctionProto] = {}
    for function in model.functions:
        if function.domain in STANDARD or function.domain.startswith("com.microsoft"):
            detail = f"Function {function.name} is in the domain {function.domain or 'ai.onnx'}"
            raise Rejected("function_domain", detail, node=function.name)
        _check_opsets(f"function {function.name}", function.opset_import)
        functions[function.domain, function.name, function.overload] = function
    return functions


def _check_graph(place: str, graph: GraphProto, facts: dict[str, Any], functions: dict[FunctionKey, FunctionProto]) -> None:
    for tensor in graph.initializer:
        facts["initializers"] += 1
        facts["initializer_bytes"] += check_tensor(f"{place}, initializer {tensor.name}", tensor)
    for sparse in graph.sparse_initializer:
        facts["initializers"] += 1
        facts["initializer_bytes"] += _check_sparse(f"{place}, initializer {sparse.values.name}", sparse)
    _check_values(place, (*graph.input, *graph.output, *graph.value_info))
    _check_nodes(place, graph.node, facts, functions)


def _check_nodes(
    place: str, nodes: Iterable[NodeProto], facts: dict[str, Any], functions: dict[FunctionKey, FunctionProto]
) -> None:
    for number, node in enumerate(nodes):
        facts["nodes"] += 1
        name = f"{place}/{node.name or number} ({node.op_type})"
        _check_operator(name, node, functions)
        facts["operators"].add(f"{node.domain}.{node.op_type}".removeprefix("ai.onnx.").lstrip("."))
        for attribute in node.attribute:
            _check_attribute(name, attribute, facts, functions)


def _check_operator(place: str, node: NodeProto, functions: dict[FunctionKey, FunctionProto]) -> None:
    if node.domain in STANDARD or (node.domain, node.op_type, node.overload) in functions:
        return
    if node.domain == "com.microsoft" and node.op_type in CONTRIBUTED:
        return
    raise Rejected("operator_domain", f"Operator {node.op_type} of the domain {node.domain} is not allowed", node=place)


def _check_attribute(
    place: str, attribute: AttributeProto, facts: dict[str, Any], functions: dict[FunctionKey, FunctionProto]
) -> None:
    place = f"{place}, attribute {attribute.name}"
    # Whatever its `type` says: a field that is filled is looked at.
    for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
        check_tensor(place, tensor)
    for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()), *attribute.sparse_tensors):
        _check_sparse(place, sparse)
    for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
        _check_graph(place, graph, facts, functions)


def check_tensor(place: str, tensor: TensorProto) -> int:
    """Bytes of a tensor that is inside the file and holds what its dimensions say. Raises Rejected."""
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise Rejected("external_data", "A tensor refers to data outside of the file", node=place)
    count = _elements(place, tensor.dims)
    found = len(tensor.raw_data)
    if tensor.data_type == TensorProto.STRING:
        size, values, wanted = sum(map(len, tensor.string_data)), len(tensor.string_data), count
    elif (bits := BITS.get(tensor.data_type)) is None:
        raise Rejected("tensor_type", f"Tensor of type {tensor.data_type}", node=place, found=tensor.data_type)
    elif tensor.HasField("raw_data"):
        size = values = found
        wanted = (count * bits + 7) // 8
    else:
        values = len(getattr(tensor, FIELDS.get(tensor.data_type, "int32_data")))
        wanted = (count * bits + 7) // 8 if bits < 8 else count  # values below 8 bits are packed into bytes
        size = values * max(bits, 8) // 8
    if values != wanted:
        detail = f"Dimensions {list(tensor.dims)} need {wanted} values or bytes, the tensor has {values}"
        raise Rejected("tensor_bytes", detail, node=place, expected=wanted, found=values)
    return size


def _check_sparse(place: str, sparse: SparseTensorProto) -> int:
    _elements(place, sparse.dims)
    size = check_tensor(f"{place}, values", sparse.values) + check_tensor(f"{place}, indices", sparse.indices)
    if len(sparse.values.dims) != 1 or sparse.values.dims[0] > math.prod(sparse.dims):
        raise Rejected("tensor_bytes", f"A sparse tensor {list(sparse.dims)} has more values than places", node=place)
    return size


def _check_values(place: str, values: Iterable[onnx.ValueInfoProto]) -> None:
    """Declared shapes: a fixed dimension is not negative, and all of them together are not too large."""
    for value in values:
        if value.type.HasField("tensor_type"):
            dims = [size.dim_value for size in value.type.tensor_type.shape.dim if size.HasField("dim_value")]
            _elements(f"{place}, value {value.name}", [size for size in dims if size != -1])  # some exporters write -1 for free


def _elements(place: str, dims: Iterable[int]) -> int:
    dims = list(dims)
    count = math.prod(dims)
    if any(size < 0 for size in dims) or math.prod(max(size, 1) for size in dims) > MAX_ELEMENTS:
        raise Rejected("tensor_too_large", f"A tensor has the dimensions {dims[:16]}", node=place)
    return count


def _expansion(model: ModelProto, functions: dict[FunctionKey, FunctionProto]) -> tuple[int, int]:
    """(nodes after all functions are expanded, depth of nesting). Raises Rejected if there are too many, or too deep.

    Each function is counted once, however often it is called.
    """
    counted: dict[FunctionKey, tuple[int, int]] = {}
    under_way: set[FunctionKey] = set()

    def of_function(key: FunctionKey, level: int) -> tuple[int, int]:
        if key not in counted:
            if key in under_way:
                raise Rejected("function_recursion", f"Function {key[1]} calls itself", node=key[1])
            under_way.add(key)
            counted[key] = of_nodes(functions[key].node, level + 1)
        return counted[key]

    def of_nodes(nodes: Iterable[NodeProto], level: int) -> tuple[int, int]:
        if level > HOPELESS_DEPTH:
            raise Rejected("nesting", f"Functions or subgraphs are nested more than {HOPELESS_DEPTH} deep", found=level)
        total = depth = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            inner = [of_function(key, level)] if key in functions else []
            total += 0 if inner else 1
            inner += [of_nodes(graph.node, level + 1) for graph in _graphs(node)]
            total += sum(count for count, _ in inner)
            depth = max([depth, *(1 + below for _, below in inner)])
        return total, depth

    total, depth = of_nodes(model.graph.node, 0)
    if total > MAX_EXPANSION_NODES:
        raise Rejected("function_expansion", f"The model expands to {total} nodes", expanded_nodes=total, depth=depth)
    if depth > MAX_DEPTH:
        raise Rejected("nesting", f"Functions and subgraphs are nested {depth} deep", expanded_nodes=total, depth=depth)
    return total, depth


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
