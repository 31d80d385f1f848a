"""How onnxruntime is opened, in one place: the same limits at intake, in the worker and in tenants' child processes."""

from typing import Any

import onnxruntime

Providers = tuple[str | tuple[str, dict[str, Any]], ...]
CPU: Providers = ("CPUExecutionProvider",)
CUDA = "CUDAExecutionProvider"
MAX_EXPANSION_NODES = 50_000  # nodes after function expansion; intake counts them statically first
MAX_FOLDED_BYTES = 16 << 20  # a constant-folding bomb of 109 bytes took 923 MB without this limit


def session_options(*, threads: int, is_trusted: bool) -> onnxruntime.SessionOptions:
    """Options of a CPU session. `threads` is the number inside one operator; nothing spins while it waits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # the exception carries the message; logs must not carry model content
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.function_expansion_node_limit", str(MAX_EXPANSION_NODES))
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(MAX_FOLDED_BYTES))
    if not is_trusted:
        options.enable_cpu_mem_arena = False
    return options


def open_session(
    artifact: bytes, *, threads: int = 1, providers: Providers = CPU, is_trusted: bool = False
) -> onnxruntime.InferenceSession:
    """A session from the bytes of a model that passed intake. The provider list is explicit: the wheel offers others."""
    return onnxruntime.InferenceSession(
        artifact, session_options(threads=threads, is_trusted=is_trusted), providers=list(providers)
    )


def providers_for(hardware: str, memory_bytes: int) -> Providers:
    """onnxruntime's execution providers, best first. Raises RuntimeError if the hardware's is not there."""
    if hardware == "cpu":
        return CPU
    if CUDA not in onnxruntime.get_available_providers():
        raise RuntimeError("ENGINE_HARDWARE is gpu, but this onnxruntime has no CUDAExecutionProvider: install onnxruntime-gpu")
    return ((CUDA, {"gpu_mem_limit": str(memory_bytes), "arena_extend_strategy": "kSameAsRequested"}), *CPU)
