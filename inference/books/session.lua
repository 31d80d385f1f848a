-- Registers a session, and adopts what an earlier one of the same gateway left: once the key has its new name, whatever an old
-- socket still holds finds no key and writes nothing.
-- A registration that is heard late makes a session that nobody uses. So a session carries its line, the id of the first of those
-- that handed their calls on: only one of the gateway's own line holds its calls, any other it names is empty and goes.
-- KEYS: 1 open:{new session}, then open:{session} of those that may be this gateway's: the last one known, and later attempts.
-- ARGV: 1 the line (any, if none is known yet), then the ids of the same sessions.
-- Returns {1 if one was adopted; 0 if not, and the new session begins a line; the platform's clock: seconds; microseconds}.

local found = 0
for i = 2, #KEYS do
  if redis.call('HGET', KEYS[i], 'line') == ARGV[1] then
    redis.call('RENAME', KEYS[i], KEYS[1])
    found = 1
  else
    redis.call('DEL', KEYS[i])
  end
  redis.call('SREM', 'sessions', ARGV[i + 1])
end
if found == 0 then redis.call('HSET', KEYS[1], 'line', ARGV[2]) end
redis.call('HINCRBY', KEYS[1], 'beat', 1)
redis.call('SADD', 'sessions', ARGV[2])
local seconds, us = time_us()
return {found, seconds, us}
