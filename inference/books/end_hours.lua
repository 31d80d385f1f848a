-- Ends all hours before a moment, and says whether the ledger has everything of them: whatever enters the journal from now on has
-- an id at that moment or later. An idle journal gets a marker for it, an entry without a record.
-- KEYS: 1 journal. ARGV: 1 the moment in milliseconds since the epoch, 2 position: the last entry that is in the ledger.
-- Returns 1 if no entry after the position is older than the moment; 0 if the drain has some to move first, if there has never
--   been an entry, or if by the platform's clock the moment is still to come.

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local moment, seconds = tonumber(ARGV[1]), time_us()
if seconds * 1000 < moment then return 0 end  -- a clock that is ahead must not take the journal's ids with it
local info, last = redis.call('XINFO', 'STREAM', KEYS[1]), 0
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = tonumber(string.match(info[i + 1], '^%d+')) end
end
if last < moment then redis.call('XADD', KEYS[1], string.format('%.0f-*', moment), 'm', '') end
local left = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], string.format('%.0f', moment - 1), 'COUNT', 1)
return #left == 0 and 1 or 0
