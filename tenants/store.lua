-- Store records that were made anew, and publish their names.
--
-- KEYS: for each record its name and the key of its making token
-- ARGV: 1 the token, 2 the channel, 3 the seconds to keep, then the packed records in the order of KEYS
-- Returns for each 1, or 0 if another token is there: a later projection will store what it reads.
local stored = {}
for i = 1, #KEYS / 2 do
  local name, making = KEYS[2 * i - 1], KEYS[2 * i]
  if redis.call('GET', making) == ARGV[1] then
    redis.call('SET', name, ARGV[i + 3], 'EX', ARGV[3])
    redis.call('DEL', making)
    redis.call('PUBLISH', ARGV[2], name)
    stored[i] = 1
  else
    stored[i] = 0
  end
end
return stored
