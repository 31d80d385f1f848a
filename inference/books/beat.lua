-- A session's heartbeat. Without its key (a reaper has taken it) it does nothing.
-- KEYS: 1 open:{session}.
-- Returns {1 if the session is alive, else 0; the server's TIME: seconds; microseconds}.

local is_alive = redis.call('EXISTS', KEYS[1])
if is_alive == 1 then redis.call('HINCRBY', KEYS[1], 'beat', 1) end
local time = redis.call('TIME')
return {is_alive, tonumber(time[1]), tonumber(time[2])}
