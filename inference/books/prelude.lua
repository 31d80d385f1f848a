#!lua flags=allow-oom
-- The beginning of every script of the books: what they share. A script runs whole or not at all only if it makes all checks
-- before its first write, so charges are collected here and written at the end by `write_charges`.
-- Keys beside those in KEYS follow from the calls themselves: account:{tenant}, stored:{tenant}, and the claims in entries.
-- open:{session} is a hash: its `beat`, its `line` (session.lua), and an entry under the id of each open call.
-- An entry is one byte, the length of its head; the head, msgpack: {tenant, key, period, maximum in nano, mode, claim or ""}; and the
-- packed usage record as far as it is known while the call is open (pack_opened; its end is missing). Sums and limits in an account
-- are fields `{calls|nano}:{period|ever}:{key or ""}` and `limit:{calls|nano}:{month|ever}:{key or ""}`; "" stands for the
-- organization. `limit:included:month:` is a second limit on its calls of a month: those that its plan includes. All are integers
-- below 2^53.

local UNENDED = '\0\0\194\0\0\0\0\160'  -- the end of a record of a call that has not ended (inference.books.record.UNENDED)
local RECORD = {tenant = 2, key = 3, mode = 9, kind = 10, period = 11, closed_ms = 17, nano = 18}  -- places in inference.books.record

-- No account keeps periods before `accounts:kept_from` (pruning.py): their sums have gone or are going, and nothing here reads,
-- writes or compares them. An entry that was opened in one, and is closed late, changes the other sums only.
local kept_from
local function is_kept(period)
  if kept_from == nil then
    local found = redis.pcall('GET', 'accounts:kept_from')
    kept_from = type(found) == 'string' and found or ''
  end
  return period >= kept_from  -- `ever` is after all digits
end

-- The platform's clock: this server's, put forward by as much as a local stand-in of Stripe has moved it (saas/lib/clock.py).
local moved
local function moved_ms()
  if moved == nil then
    local found = redis.pcall('GET', 'clock:offset')
    moved = type(found) == 'string' and tonumber(found) or 0
  end
  return moved
end

local function time_us()  -- seconds and microseconds, as TIME gives them
  local time = redis.call('TIME')
  local us = tonumber(time[2]) + moved_ms() % 1000 * 1000
  return tonumber(time[1]) + math.floor(moved_ms() / 1000) + math.floor(us / 1000000), us % 1000000
end

-- Under which id the next entry of a journal goes: while the clock was never moved, the server's own. Ids never go back.
local function next_id(journal)
  if moved_ms() == 0 then return '*' end
  local seconds, us = time_us()
  local ms = seconds * 1000 + math.floor(us / 1000)
  if redis.call('EXISTS', journal) == 1 then
    local info = redis.call('XINFO', 'STREAM', journal)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then ms = math.max(ms, tonumber(string.match(info[i + 1], '^%d+'))) end
    end
  end
  return string.format('%.0f-*', ms)
end

local charges = {}  -- account → field → what is added

local function account_key(tenant) return 'account:' .. tenant end

local function charge(tenant, key, period, calls, nano)
  local account = account_key(tenant)
  local fields = charges[account]
  if not fields then
    fields = {}
    charges[account] = fields
  end
  local names = {'ever:'}
  if key ~= '' then names[2] = 'ever:' .. key end
  if is_kept(period) then
    names[#names + 1] = period .. ':'
    if key ~= '' then names[#names + 1] = period .. ':' .. key end
  end
  for _, name in ipairs(names) do
    fields['calls:' .. name] = (fields['calls:' .. name] or 0) + calls
    fields['nano:' .. name] = (fields['nano:' .. name] or 0) + nano
  end
end

-- Sums change only in an account that exists. One that holds something else than integers becomes unknown, to be rebuilt.
local function write_charges()
  for account, fields in pairs(charges) do
    local is_there = redis.call('EXISTS', account) == 1
    for field, n in pairs(fields) do
      if is_there and n ~= 0 then
        local sum = redis.pcall('HINCRBY', account, field, string.format('%.0f', n))
        if type(sum) == 'table' then
          redis.call('DEL', account)
          redis.call('SADD', 'accounts:wanted', string.sub(account, 9))
          is_there = false
        end
      end
    end
  end
end

local heads = {}  -- packed → head: calls alike have the same

-- The head of an entry as a table, and where its record begins. Raises what cmsgpack raises.
local function head_of(entry)
  local first = (string.byte(entry, 1) or 0) + 2
  local packed = string.sub(entry, 2, first - 1)
  local head = heads[packed]
  if not head then
    head = cmsgpack.unpack(packed)
    if type(head) ~= 'table' or #head ~= 6 then error('not an entry') end
    heads[packed] = head
  end
  return head, first
end

-- What undoes an open: sums lowered by all that was charged. (The claim is the caller's to remove.)
local function charge_back(head)
  if head[5] ~= 'test' then charge(head[1], head[2], head[3], -1, -head[4]) end
end

local function quarantine(call, reason, record)
  redis.call('XADD', 'journal:quarantine', '*', 'call', call, 'reason', reason, 'r', record)
end
