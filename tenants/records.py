"""Records: small facts that gateways keep in memory, projected from PostgreSQL to the lanes server and pushed on change.

A record has a name, `key:{public id}` or `route:…`, and a maker: a function that reads PostgreSQL and returns its packed bytes
(None: there is no such thing). `changed(name)` is called inside the transaction that changes it: an outbox row is written with
it, and after the commit the record is made anew, stored and its name published; `relay()` repeats what did not get through.
Gateways read: own memory (at most 5 s old) → the lanes server → the maker. What they make they store only if nothing is there,
so that a late reader never overwrites a newer record.
"""
