"""What operators and customers do while calls come: restart everything, promote a version, roll it back."""

import time
from pathlib import Path

import onnx
import requests

from benchmarks.calm import judging
from benchmarks.calm.judging import Check
from benchmarks.calm.stage import Driven, Stage, shown
from benchmarks.failures import Failed, say

NAME = "calm-change"
PAUSE = 2.0  # after each change, so that calls meet it
ROUND_SECONDS = 45.0  # that one round may take at the end of the load


def change(stage: Stage) -> list[Check]:
    """Calls of a catalogue model and of a customer's own, in closed loops, while all is changed in turn."""
    seconds = stage.lasting(300.0, 60.0)
    with requests.Session() as session:
        session.headers.update(stage.authorization(0))
        upload(stage, session)
        catalogue = Driven(stage.plan("iris", [1], clients=8, seconds=seconds))
        own = Driven(stage.plan("iris", [0], clients=8, seconds=seconds, name=NAME))
        try:
            rounds = changed(stage, session, time.monotonic() + seconds)
        finally:
            loads = catalogue.wait(), own.wait()
    for name, load in zip(("catalogue", "own"), loads, strict=True):
        say(f"{name}: {shown(load)}")
    return [
        judging.at_least("rounds of restart, promotion and rollback", rounds, 1),
        judging.at_most("failed calls of the catalogue's model", loads[0].bad, 0),
        judging.at_most("failed calls of the customer's model", loads[1].bad, 0),
        judging.at_least("right answers", sum(load.good for load in loads), 1),
    ]


def changed(stage: Stage, session: requests.Session, until: float) -> int:
    """Rounds that were done while the load went on. Raises Failed."""
    rounds = 0
    while not rounds or time.monotonic() < until - ROUND_SECONDS:
        alias = f"{models(stage)}/{NAME}/aliases/production"
        for method, url, body in (("PUT", alias, {"version": "1.0.1"}), ("POST", f"{alias}/rollback", None)):
            said = session.request(method, url, json=body, timeout=60)
            if not said.ok:
                raise Failed(f"{method} {url}: {said.text[:300]}")
            time.sleep(PAUSE)
        stage.service.restart()
        time.sleep(PAUSE)
        rounds += 1
    return rounds


def models(stage: Stage) -> str:
    return f"http://127.0.0.1:{stage.service.port}/api/v1/models"


def upload(stage: Stage, session: requests.Session) -> None:
    """Two versions that answer alike; the first is in production. Raises Failed."""
    session.post(models(stage), json={"name": NAME}, timeout=60)
    for number in ("1.0.0", "1.0.1"):
        stage.service.upload_version(session, NAME, stamped(stage.models["iris"].file, number), "{}")
    said = session.put(f"{models(stage)}/{NAME}/aliases/production", json={"version": "1.0.0"}, timeout=60)
    if not said.ok:
        raise Failed(f"{NAME} 1.0.0 was not promoted: {said.text[:300]}")


def stamped(file: Path, text: str) -> bytes:
    """The model with a text in it, so that it is another file."""
    model = onnx.load(str(file))
    model.doc_string = text
    return bytes(model.SerializeToString())
