"""Where the example clients find the service and a key: MODEL_SERVICE_URL and MODEL_SERVICE_KEY, else what `make run` wrote."""

import json
import os
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent


def demo() -> tuple[str, requests.Session]:
    """(base URL, session that sends the API key with every request)."""
    base_url, key = os.environ.get("MODEL_SERVICE_URL"), os.environ.get("MODEL_SERVICE_KEY")
    if not base_url or not key:
        path = ROOT / ".local" / "demo.json"
        if not path.exists():
            raise SystemExit("Start the service with `make run` first, or set MODEL_SERVICE_URL and MODEL_SERVICE_KEY.")
        demo = json.loads(path.read_text())
        base_url, key = demo["base_url"], demo["api_key"]
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {key}"
    try:
        session.get(f"{base_url}/livez", timeout=10)
    except requests.ConnectionError:
        raise SystemExit(f"Nothing answers at {base_url}: start the service with `make run`.") from None
    return base_url.rstrip("/"), session


def checked(response: requests.Response) -> dict:
    """The JSON of a good answer; what went wrong, with the request's id, ends the program."""
    if not response.ok:
        raise SystemExit(f"{response.status_code} {response.url}\n{response.text}")
    return response.json()
