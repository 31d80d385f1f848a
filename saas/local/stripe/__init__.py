"""A stand-in for Stripe on loopback, for development and tests: stateful, with pages to click, a movable clock and faults.

It is no reference: what Stripe does is said by Stripe. Nothing of the platform is imported here but its clock, to move it.
"""
