"""The side-by-side measurement: this service with everything on, other model servers with nothing on. `make bench`."""
