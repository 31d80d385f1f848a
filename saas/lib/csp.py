"""Content-Security-Policy: what a browser may load and run for an answer of ours. Pages load their own files, nothing else."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

HEADER = "Content-Security-Policy"
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
Handler = Callable[[HttpRequest], HttpResponse]


def policy(**more: str) -> str:
    """A page's policy; `more` adds sources: `style_src="'sha256-…'"`."""
    sources = PAGE | {name.replace("_", "-"): f"{PAGE[name.replace('_', '-')]} {added}" for name, added in more.items()}
    return "; ".join(f"{name} {allowed}" for name, allowed in sources.items())


def content_security_policy(handler: Handler) -> Handler:
    """Give each answer that has none a policy: a page's for HTML, else one that allows nothing."""

    def handle(request: HttpRequest) -> HttpResponse:
        response = handler(request)
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        response.headers.setdefault(HEADER, policy() if is_page else NOTHING)
        return response

    return handle
