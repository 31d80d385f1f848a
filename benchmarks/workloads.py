"""What is measured, and what has to come out."""

from dataclasses import dataclass

OURS = "ours"
PYTHON_PEERS = ("bento", "litserve", "mlserver", "ray")
PEERS = (*PYTHON_PEERS, "triton")
IMAGE_PEERS = ("bento", "litserve")
OPEN_SHARE = 0.7  # of our own peak
OPEN_CLIENTS = 256  # connections that an open loop has at hand

# By the form of the body: how each system takes it. A system that is not named cannot be asked so.
DIALECTS: dict[str, dict[str, str]] = {
    "json": {OURS: "v2", "bento": "plain", "litserve": "plain", "mlserver": "v2", "ray": "plain", "triton": "v2"},
    "binary": {OURS: "v2-binary", "ray": "raw", "triton": "v2-binary"},
    "png": {OURS: "predict", "bento": "image", "litserve": "image"},
}


@dataclass(frozen=True)
class Workload:
    """`mode` is what is special about our side: `everysec` (how often the books reach the disk; otherwise each time), `bare`
    (no key, limits, metering and log), `upload` (the model as a customer's own), `budgets` (of the organization and its key).
    `like`: the workload whose peers' best configurations are taken, and whose rate an open loop takes its share of.
    """

    name: str
    model: str
    body: str
    clients: int
    peers: tuple[str, ...] = ()
    mode: str = ""
    like: str = ""
    is_open: bool = False


WORKLOADS = (
    Workload("iris-64", "iris", "json", 64, PEERS),
    Workload("iris-16", "iris", "json", 16, PEERS),
    Workload("iris-1", "iris", "json", 1, PEERS),
    Workload("iris-1-everysec", "iris", "json", 1, mode="everysec"),
    Workload("iris-64-everysec", "iris", "json", 64, mode="everysec"),
    Workload("open-loop", "iris", "json", OPEN_CLIENTS, PYTHON_PEERS, like="iris-64", is_open=True),
    Workload("bare", "iris", "json", 64, mode="bare", like="iris-64"),
    Workload("budgets", "iris", "json", 64, mode="budgets", like="iris-64"),
    Workload("upload", "iris", "json", 64, mode="upload", like="iris-64"),
    Workload("mlp", "bench-mlp", "json", 64, PEERS),
    Workload("conv-json", "bench-conv", "json", 16, PEERS),
    Workload("conv-binary", "bench-conv", "binary", 16, PEERS),
    Workload("image", "bench-image", "binary", 16, ("triton",)),
    Workload("digits", "digits", "png", 16, IMAGE_PEERS),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}


@dataclass(frozen=True)
class Goal:
    """Our `metric` in `workload`, divided by that of the best of `peers` (or ours in workload `base`), must be at least
    `least` or at most `most`; neither: the ratio is told, and nothing is asked of it. `peers_in`: the workload that the peers
    are taken from, if it is another.
    """

    title: str
    workload: str
    metric: str  # rate (requests/s), p50, p99 (ms), cpu (µs a request), mb (MB/s)
    against: str
    peers: tuple[str, ...] = ()
    base: str = ""
    peers_in: str = ""
    least: float | None = None
    most: float | None = None


BEST_PYTHON = "best Python peer"
GOALS = (
    Goal("iris, JSON, 16 clients, requests/s", "iris-16", "rate", BEST_PYTHON, PYTHON_PEERS, least=4.0),
    Goal("iris, JSON, 64 clients, requests/s", "iris-64", "rate", BEST_PYTHON, PYTHON_PEERS, least=4.0),
    Goal("iris, JSON, 16 clients, requests/s", "iris-16", "rate", "Triton", ("triton",), least=1.0),
    Goal("iris, JSON, 64 clients, requests/s", "iris-64", "rate", "Triton", ("triton",), least=1.2),
    Goal("iris, JSON, 1 client, p50, books `always`", "iris-1", "p50", BEST_PYTHON, PYTHON_PEERS, most=1.0),
    Goal(
        "iris, JSON, 1 client, p50, books `everysec`",
        "iris-1-everysec", "p50", BEST_PYTHON, PYTHON_PEERS, peers_in="iris-1", most=0.9,
    ),
    Goal("784-float MLP, JSON, 64 clients, requests/s", "mlp", "rate", BEST_PYTHON, PYTHON_PEERS, least=3.0),
    Goal("784-float MLP, JSON, 64 clients, requests/s", "mlp", "rate", "Triton", ("triton",), least=1.0),
    Goal("small conv net, JSON, 16 clients, requests/s", "conv-json", "rate", BEST_PYTHON, PYTHON_PEERS, least=1.2),
    Goal("small conv net, JSON, 16 clients, requests/s", "conv-json", "rate", "Triton", ("triton",), least=1.0),
    Goal("small conv net, binary, 16 clients, requests/s", "conv-binary", "rate", BEST_PYTHON, PYTHON_PEERS, least=1.2),
    Goal("small conv net, binary, 16 clients, requests/s", "conv-binary", "rate", "Triton", ("triton",), least=1.0),
    Goal("3×224×224 float32, binary, 16 clients, MB/s", "image", "mb", "Triton", ("triton",), least=1.0),
    Goal("digits, PNG, 16 clients, requests/s", "digits", "rate", "best of LitServe, BentoML", IMAGE_PEERS, least=2.0),
    Goal("everything on, CPU-µs a request, 64 clients", "iris-64", "cpu", "ourselves, all off", base="bare", most=1.25),
    Goal("iris with budgets, CPU-µs a request, 64 clients", "budgets", "cpu", "ourselves, without", base="iris-64", most=1.1),
    Goal("open loop at 70 % of our peak, p99", "open-loop", "p99", BEST_PYTHON, PYTHON_PEERS, most=0.5),
    Goal("iris, 64 clients, CPU-µs a request", "iris-64", "cpu", "Triton", ("triton",), most=1.0),
    Goal("iris as a customer's upload, 64 clients, requests/s", "upload", "rate", "ourselves, catalogue", base="iris-64"),
    Goal("iris as a customer's upload, CPU-µs a request", "upload", "cpu", "ourselves, catalogue", base="iris-64"),
    Goal("iris, 64 clients, requests/s, books `everysec`", "iris-64-everysec", "rate", "ourselves, `always`", base="iris-64"),
)  # fmt: skip


def chosen(names: list[str]) -> list[Workload]:
    """The workloads called so or whose names begin so (none named: all), with those that they need first. Raises ValueError."""
    wanted: set[str] = set()
    for name in names or BY_NAME:
        found = {workload.name for workload in WORKLOADS if workload.name == name or workload.name.startswith(f"{name}-")}
        if not found:
            raise ValueError(f"there is no workload {name!r}; there are {', '.join(BY_NAME)}")
        wanted |= found | {workload.like for workload in WORKLOADS if workload.name in found and workload.like}
    return [workload for workload in WORKLOADS if workload.name in wanted]
