"""A stand-in for Stripe on loopback, for development and tests: stateful, with pages to click, a movable clock and faults.

It is nobody's reference: what Stripe does is said by Stripe. Neither Django nor the platform is imported here.
"""
