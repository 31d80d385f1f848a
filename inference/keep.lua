-- Keep one large reply for its gateway and tell it so; where there is no room, tell it that this call is refused.
--
-- A subscriber that is behind is cut off, and with it every call of its gateway. So large replies lie here, bounded, and the
-- gateway fetches one after the other. An organization may have as much as it leaves free: alone half of all, of three a
-- quarter each; so a newcomer finds room whatever the others do.
--
-- KEYS: 1 hash of the gateway's kept replies: by call number the reply, of:{number} whose it is; bytes, all that are kept, and
--       bytes:{organization}, its own
-- ARGV: channel of the gateway, call number, organization, reply, notice, refusal, most bytes in all, seconds to live
-- Returns 1 if it is kept (perhaps since an earlier try), 0 if it is refused or nobody listens.
local kept, channel, number, organization, reply = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('HEXISTS', kept, number) == 1 then return 1 end
local all = tonumber(redis.call('HGET', kept, 'bytes') or 0)
local own = tonumber(redis.call('HGET', kept, 'bytes:' .. organization) or 0)
local is_kept = false
if own + #reply <= tonumber(ARGV[7]) - all then
  local done = redis.pcall('HSET', kept, number, reply, 'of:' .. number, organization,
    'bytes', all + #reply, 'bytes:' .. organization, own + #reply)
  is_kept = type(done) == 'number' -- else the server has no memory left
end
if is_kept then redis.call('EXPIRE', kept, ARGV[8]) end
if redis.call('PUBLISH', channel, is_kept and ARGV[5] or ARGV[6]) == 0 then
  redis.call('DEL', kept) -- without its subscription the gateway has given up all that waited
  return 0
end
return is_kept and 1 or 0
