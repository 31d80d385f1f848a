-- Registers a session, and adopts what an earlier one of the same gateway left: once the key has its new name, whatever an old
-- socket still holds finds no key and writes nothing.
-- KEYS: 1 open:{new session}, then open:{session} of those that may hold this gateway's calls; at most one of them exists.
-- ARGV: the ids of the same sessions.
-- Returns {1 if one was adopted, else 0; the server's TIME: seconds; microseconds}.

local found = 0
for i = 2, #KEYS do
  if found == 0 and redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[1])
    found = 1
  end
  redis.call('SREM', 'sessions', ARGV[i])
end
redis.call('HINCRBY', KEYS[1], 'beat', 1)
redis.call('SADD', 'sessions', ARGV[1])
local time = redis.call('TIME')
return {found, tonumber(time[1]), tonumber(time[2])}
