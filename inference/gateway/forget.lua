-- Give up one kept reply (keep.lua), which the gateway has or does not want.
--
-- KEYS: 1 hash of the gateway's kept replies
-- ARGV: call number
local kept, number = KEYS[1], ARGV[1]
local size, organization = redis.call('HSTRLEN', kept, number), redis.call('HGET', kept, 'of:' .. number)
if not organization then return end
redis.call('HDEL', kept, number, 'of:' .. number)
local own = 'bytes:' .. organization
if redis.call('HINCRBY', kept, own, -size) == 0 then redis.call('HDEL', kept, own) end
if redis.call('HINCRBY', kept, 'bytes', -size) == 0 then redis.call('DEL', kept) end
