-- Takes a session whose heart has stopped: from then on its gateway can write nothing.
-- KEYS: 1 open:{session}, 2 reaping:{session}. ARGV: 1 session, 2 the beat at which it stood still.
-- Returns 1, or 0 if it has beaten since or is not there.

if redis.call('HGET', KEYS[1], 'beat') ~= ARGV[2] then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('SREM', 'sessions', ARGV[1])
redis.call('SADD', 'reaping', ARGV[1])
return 1
