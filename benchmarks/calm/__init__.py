"""`make calm`: how the service behaves under more than it can do, beside one that takes too much, and while it is changed."""
