"""The stand-in's pages as HTML: forms that work without JavaScript, with labels, in one column."""

from collections.abc import Sequence
from decimal import Decimal
from html import escape

from saas.local.stripe.customers import CARDS

EXPONENTS = {"jpy": 0, "krw": 0, "vnd": 0, "kwd": 3, "bhd": 3, "tnd": 3}
STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 2rem auto; padding: 0 1rem }
body { color: #1a1a2e; background: #fff }
fieldset { border: 1px solid #767691; border-radius: .4rem; margin: 1rem 0 }
label { display: block; padding: .3rem 0 }
button { font: inherit; padding: .6rem 1rem; border: 2px solid #4338ca; border-radius: .4rem; background: #4338ca; color: #fff }
button.quiet { background: #fff; color: #4338ca }
button:focus-visible, input:focus-visible, a:focus-visible { outline: 3px solid #b45309; outline-offset: 2px }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #ddd }
td.sum, th.sum { text-align: right }
.alert { border-left: .3rem solid #b91c1c; padding: .3rem .8rem; background: #fef2f2 }
.notice { border-left: .3rem solid #4338ca; padding: .3rem .8rem; background: #eef2ff }
"""


def money(minor: int, currency: str) -> str:
    """`1250` of usd as `12.50 USD`."""
    digits = EXPONENTS.get((currency or "").lower(), 2)
    return f"{Decimal(minor).scaleb(-digits):.{digits}f} {(currency or '').upper()}"


def document(title: str, *parts: str, alert: str = "") -> bytes:
    """A whole page; `alert` is read out first."""
    warning = f'<p class="alert" role="alert">{escape(alert)}</p>' if alert else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>
<p class="notice">This is the stand-in for Stripe of a local service. No money moves, and no real card belongs here.</p>
<h1>{escape(title)}</h1>{warning}{"".join(parts)}</main></body></html>""".encode()


def table(caption: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table whose last column holds sums."""
    marks = [""] * (len(head) - 1) + [' class="sum"']
    top = "".join(f'<th scope="col"{mark}>{escape(text)}</th>' for text, mark in zip(head, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(text)}</td>" for text, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def card_choice() -> str:
    """The cards that the stand-in knows, as radio buttons."""
    rows = "".join(
        f'<label><input type="radio" name="card" value="{number}"{" checked" if does == "works" else ""}> '
        f"{number[:4]} {number[4:8]} {number[8:12]} {number[12:]}: {escape(text)}</label>"
        for number, (does, text) in CARDS.items()
    )
    return f"<fieldset><legend>Card</legend>{rows}</fieldset>"


def form(action: str, button: str, *parts: str, name: str = "do", value: str = "", is_quiet: bool = False) -> str:
    """A form with one button, which sends `name`=`value`."""
    style = ' class="quiet"' if is_quiet else ""
    send = f'<button name="{escape(name)}" value="{escape(value)}"{style}>{escape(button)}</button>'
    return f'<form method="post" action="{escape(action)}">{"".join(parts)}<p>{send}</p></form>'
