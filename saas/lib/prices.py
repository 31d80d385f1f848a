"""A price, as the price book, gateways and quotes hand it to each other."""

import msgspec


class Price(msgspec.Struct, array_like=True, frozen=True):
    """What a call costs that opens at `starts_ms` or later: amounts in billionths of the currency unit, each 0 or more."""

    version: int  # the row of the price book; 0 is built in and costs nothing
    starts_ms: int  # milliseconds since the epoch
    currency: str
    call_nano: int
    row_nano: int
    second_nano: int  # per second of computing


FREE = Price(0, 0, "USD", 0, 0, 0)
