"""Where books.lua finds the first of its arguments, by number from 0. (In Lua they count from 1.) It imports nothing."""

STORED_MAX, PLAIN_CLOSES, KEYED_CLOSES, GROUPS = range(4)
