-- Says from which period on accounts keep sums; an earlier one never replaces a later one.
-- KEYS: 1 accounts:kept_from. ARGV: 1 period (2026-11).
-- Returns the period that holds now.

local now = redis.call('GET', KEYS[1])
if now and now >= ARGV[1] then return now end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
