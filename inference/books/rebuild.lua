-- Makes an account anew, or compares it: sums of the ledger up to a position, and what the journal holds after it, and the open
-- calls at their maximum. Periods that are not kept any more are neither installed nor compared.
-- KEYS: 1 account:{tenant}, 2 limits:{tenant}, 3 journal, 4 journal:trimmed.
-- ARGV: 1 `install` or `compare`, 2 tenant, 3 position, 4 how many records and open calls it may read, 5 version of the limits,
--   6 number of sums; then the sums: field, value …; then the limits: field, value …
-- Returns 0 if it gives up: the journal is trimmed past the position (or that cannot be told), or too much is left in it. Else
--   install: 1; compare: {field, in the account, as it should be, …} where they differ.

local tenant, position, left = ARGV[2], ARGV[3], tonumber(ARGV[4])

local function is_after(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms > b_ms or (a_ms == b_ms and tonumber(a_seq) > tonumber(b_seq))
end

local function stream_info()
  local reply, info = redis.call('XINFO', 'STREAM', KEYS[3]), {}
  for i = 1, #reply, 2 do info[reply[i]] = reply[i + 1] end
  return info
end

-- Whether everything after the position is still in the journal. trim.lua notes how far it has trimmed and how many entries that
-- were; if others were removed by another hand, only an emptied journal tells.
local function is_whole()
  if redis.call('EXISTS', KEYS[3]) == 0 then return true end
  local info = stream_info()
  local removed = info['entries-added'] - info.length
  local trimmed = redis.call('HMGET', KEYS[4], 'position', 'removed')
  if removed == tonumber(trimmed[2] or '0') then return not is_after(trimmed[1] or '0-0', position) end
  return info.length == 0 and not is_after(info['last-generated-id'], position)
end

local function add_record(packed)
  left = left - 1
  if not string.find(packed, tenant, 1, true) then return end
  local is_readable, record = pcall(cmsgpack.unpack, packed)
  if not is_readable or record[RECORD.tenant] ~= tenant then return end
  if record[RECORD.kind] == 'usage' and record[RECORD.mode] ~= 'test' then
    charge(tenant, record[RECORD.key], record[RECORD.period], 1, record[RECORD.nano])
  end
end

local function add_journal()
  local after = position
  while left > 0 do
    local entries = redis.call('XRANGE', KEYS[3], '(' .. after, '+', 'COUNT', 64)
    if #entries == 0 then return true end
    for _, entry in ipairs(entries) do
      for i = 2, #entry[2], 2 do add_record(entry[2][i]) end
      after = entry[1]
    end
  end
  return false
end

local function add_open(key)
  left = left - redis.call('HLEN', key)
  if left < 0 then return end
  for _, entry in ipairs(redis.call('HVALS', key)) do
    local is_readable, head = pcall(head_of, entry)
    if is_readable and head[1] == tenant and head[5] ~= 'test' then charge(tenant, head[2], head[3], 1, head[4]) end
  end
end

if not is_whole() or not add_journal() then return 0 end
for _, session in ipairs(redis.call('SMEMBERS', 'sessions')) do add_open('open:' .. session) end
for _, session in ipairs(redis.call('SMEMBERS', 'reaping')) do add_open('reaping:' .. session) end
if left < 0 then return 0 end

local sums, n = charges[account_key(tenant)] or {}, tonumber(ARGV[6])
local function is_kept_sum(field)
  local period = string.match(field, '^calls:([^:]*):') or string.match(field, '^nano:([^:]*):')
  return period and is_kept(period)
end
for i = 7, 5 + 2 * n, 2 do
  if is_kept_sum(ARGV[i]) then sums[ARGV[i]] = (sums[ARGV[i]] or 0) + tonumber(ARGV[i + 1]) end
end

if ARGV[1] == 'compare' then
  local differences, account = {}, redis.call('HGETALL', KEYS[1])
  local is = {}
  for i = 1, #account, 2 do
    if is_kept_sum(account[i]) then
      is[account[i]] = tonumber(account[i + 1])
      sums[account[i]] = sums[account[i]] or 0
    end
  end
  for field, sum in pairs(sums) do
    if sum ~= (is[field] or 0) then
      local at = #differences
      differences[at + 1], differences[at + 2] = field, string.format('%.0f', is[field] or 0)
      differences[at + 3] = string.format('%.0f', sum)
    end
  end
  return differences
end

local version, limits = tonumber(ARGV[5]), {}
for i = 7 + 2 * n, #ARGV do limits[#limits + 1] = ARGV[i] end
for _, key in ipairs({KEYS[2], KEYS[1]}) do  -- limits that were set here meanwhile may be newer
  local is_hash = redis.call('TYPE', key).ok == 'hash'
  local other = tonumber(is_hash and redis.call('HGET', key, 'limits_version') or '-1') or -1
  if other > version then
    version, limits = other, {}
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      if string.sub(fields[i], 1, 6) == 'limit:' then
        limits[#limits + 1], limits[#limits + 2] = fields[i], fields[i + 1]
      end
    end
  end
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'limits_version', string.format('%.0f', version))
for field, sum in pairs(sums) do
  if sum ~= 0 then redis.call('HSET', KEYS[1], field, string.format('%.0f', sum)) end
end
for i = 1, #limits, 1000 do  -- Lua's stack holds some 8,000 values
  redis.call('HSET', KEYS[1], unpack(limits, i, math.min(i + 999, #limits)))
end
redis.call('SREM', 'accounts:wanted', tenant)
return 1
