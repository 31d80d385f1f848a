-- Undoes some of what a dead session left open: sums lowered, claims dropped, a `reversed` record of 0 in the journal for each.
-- KEYS: 1 reaping:{session}, 2 journal. ARGV: 1 session, 2 how many calls at most.
-- Returns how many it undid; 0: the session is empty and gone.

redis.call('HDEL', KEYS[1], 'beat', 'line')
local pairs_of = {}
if redis.call('EXISTS', KEYS[1]) == 1 then
  pairs_of = redis.call('HRANDFIELD', KEYS[1], ARGV[2], 'WITHVALUES')
end
local seconds, us = time_us()
local now_ms = seconds * 1000 + math.floor(us / 1000)

local function reversed(entry)
  local head, first = head_of(entry)
  local record = cmsgpack.unpack(string.sub(entry, first) .. UNENDED)
  record[RECORD.kind], record[RECORD.nano], record[RECORD.closed_ms] = 'reversed', 0, now_ms
  return cmsgpack.pack(record)
end

local calls, records, refused, claims = {}, {}, {}, {}
for i = 1, #pairs_of, 2 do
  local call, entry = pairs_of[i], pairs_of[i + 1]
  calls[#calls + 1] = call
  local is_readable, head = pcall(head_of, entry)
  if is_readable then
    charge_back(head)
    local owner = head[6] ~= '' and redis.pcall('HGET', head[6], 'call')
    if owner == call then claims[#claims + 1] = head[6] end
  end
  local is_good, record = pcall(reversed, entry)
  if is_good then
    records[#records + 1] = 'r'
    records[#records + 1] = record
  else
    refused[#refused + 1] = {call, tostring(record), entry}
  end
end

for _, bad in ipairs(refused) do quarantine(unpack(bad)) end
if #records > 0 then redis.call('XADD', KEYS[2], next_id(KEYS[2]), unpack(records)) end
if #calls > 0 then redis.call('HDEL', KEYS[1], unpack(calls)) end
write_charges()
if #claims > 0 then redis.call('DEL', unpack(claims)) end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', 'reaping', ARGV[1]) end
return #calls
