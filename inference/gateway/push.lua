-- Push a call that admit.lua has admitted without its frame. Whether there is room for it was asked then.
--
-- KEYS: lane, resident mark, pool
-- ARGV: frame
redis.call('RPUSH', redis.call('EXISTS', KEYS[2]) == 1 and KEYS[1] or KEYS[3], ARGV[1])
