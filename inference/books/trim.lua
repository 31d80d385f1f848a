-- Removes from the journal what the ledger holds, and notes how far, so that a rebuild can tell what is missing.
-- KEYS: 1 journal, 2 journal:trimmed. ARGV: 1 position: the last entry that is in the ledger.
-- Returns how many entries were removed.

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local ms, seq = parts(ARGV[1])
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%.0f-%.0f', ms, seq + 1))
if removed > 0 then
  local reply, info = redis.call('XINFO', 'STREAM', KEYS[1]), {}
  for i = 1, #reply, 2 do info[reply[i]] = reply[i + 1] end
  redis.call('HSET', KEYS[2], 'position', ARGV[1], 'removed', info['entries-added'] - info.length)
end
return removed
