"""What a worker tells of itself."""

import msgspec

from inference.engine.budget import MemoryReport
from inference.pump import Counters


class ModelReport(msgspec.Struct):
    version: str
    bytes: int
    is_private: bool
    us_per_row: float


class Report(msgspec.Struct):
    """What a worker tells of itself, as JSON under worker:{name}. Counters start with the worker; durations in microseconds."""

    name: str
    hardware: str
    slots: int
    children: int
    bytes: int
    models: list[ModelReport]
    loading: int
    memory: MemoryReport  # of customers' processes
    counters: dict[str, int]  # of pump.Counters, all plain numbers
    batch_rows: list[int]  # runs by rows: 1, 2, up to 4, up to 8, …
    suspects: list[str]  # versions of the catalogue that run in processes of their own (inference.suspects)


def make_report(
    counters: Counters,
    *,
    name: str,
    hardware: str,
    slots: int,
    children: int,
    models: list[ModelReport],
    loading: int,
    memory: MemoryReport,
    suspects: list[str],
) -> Report:
    plain = msgspec.structs.asdict(counters)
    return Report(
        name=name,
        hardware=hardware,
        slots=slots,
        children=children,
        bytes=sum(model.bytes for model in models),
        models=models,
        loading=loading,
        memory=memory,
        batch_rows=plain.pop("batch_rows"),
        counters=plain,
        suspects=suspects,
    )


def total(counters: list[Counters]) -> Counters:
    total = Counters()
    for each in counters:
        for name in each.__struct_fields__:
            if name != "batch_rows":
                setattr(total, name, getattr(total, name) + getattr(each, name))
        total.batch_rows = [a + b for a, b in zip(total.batch_rows, each.batch_rows, strict=True)]
    return total
