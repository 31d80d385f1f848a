-- Ends a session that has no open calls. One with open calls is left to the reaper.
-- KEYS: 1 open:{session}. ARGV: 1 session.
-- Returns how many calls it has open.

local open = redis.call('HLEN', KEYS[1]) - 2  -- beat and line
if open > 0 then return open end
redis.call('DEL', KEYS[1])
redis.call('SREM', 'sessions', ARGV[1])
return 0
