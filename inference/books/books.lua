-- One tick of one gateway: close the calls that have ended, then open the new ones; at most 256 together.
-- All checks come first, then the writes. A call is known by its id: closing or opening it again changes nothing.
-- KEYS: 1 the session's open calls (open:{session}), 2 journal, 3 books:full (beat.lua).
-- ARGV: 1 bytes of memory that a tenant's stored answers may take now, 2 number of closes without claim, 3 of closes with claim, 4 of groups that
--   open; then
--   per close without claim: call, exact nano, the packed end of its record ("" if the call failed);
--   per close with claim: the same, then claim (its whole key), stored answer ("" if kept elsewhere), seconds to keep it, and at
--   least, if its tenant has much stored;
--   per group of calls alike (one call, if it has a claim): n, tenant, key, period, maximum in nano, mode, claim or "",
--   fingerprint of the request; then n times call, entry.
-- Returns 0, and writes nothing, if the session is not there. Else {verdicts, notes …}: one letter per call, and for some a note,
--   closes: c closed, d done (the claim holds this very call's outcome), g gone, b bad (undone, record in quarantine);
--   opens: o open, l open below a limit on money or on the calls that the plan includes, u account unknown or period not kept
--   any more, i in progress, r reused, p replay, f memory full, s stored answers full,
--   Q q calls of the month, P calls that the plan includes, B b budget of the month, C c credit: a sum would pass its limit
--   (capital: organization, else key).
-- Notes, in the order of their calls: of p the stored answer; of Q P B C q b c `limit left`; of l what is left of the budgets (the
--   least) and of the credit in nano, and of the included calls, `-` where there is none, this call already taken off at its most.

local session, journal = KEYS[1], KEYS[2]
if redis.call('EXISTS', session) == 0 then return 0 end

local argument = 5
local verdicts, notes = {}, {}
local removed, records, refused, entries, wanted, later = {}, {}, {}, {}, {}, {}  -- what will be written

local claims = {}  -- claim → {call, fingerprint, stored or false}, as they will be after this script
local function claim_of(key)
  if claims[key] == nil then
    claims[key] = redis.call('HMGET', key, 'call', 'print', 'stored')
  end
  return claims[key]
end

local clock
local function now()
  clock = clock or tonumber(redis.call('TIME')[1])
  return clock
end

local function read_entries(first, step, n)
  if n == 0 then return {} end
  local calls = {}
  for i = 1, n do calls[i] = ARGV[first + (i - 1) * step] end
  return redis.call('HMGET', session, unpack(calls))
end

-- What a tenant has stored: stored:{tenant} is a hash of `total`, the bytes of memory; `swept`, the first minute that was not looked
-- at; and under each minute since the epoch, the bytes of the outcomes that end in it.
local CLAIM_BYTES = 400  -- that a claim takes beside its stored answer, about
local KEY_LASTS = 49 * 3600  -- longer than any outcome
local LONG_PART = 4  -- a tenant's stored answers are kept long up to this part of what they may take

local stores = {}  -- tenant → {total, swept, added = {minute → bytes}, gone = {minutes}}, as they will be after this script
local function store_of(tenant)
  local store = stores[tenant]
  if store then return store end
  local name, minute = 'stored:' .. tenant, math.floor(now() / 60)
  local known = redis.call('HMGET', name, 'total', 'swept')
  local swept = math.max(tonumber(known[2]) or minute, minute - KEY_LASTS / 60)
  store = {total = tonumber(known[1]) or 0, swept = swept, added = {}, gone = {}}
  local minutes = {}
  for past = swept, minute - 1 do minutes[#minutes + 1] = past end
  if #minutes > 0 then
    for i, bytes in ipairs(redis.call('HMGET', name, unpack(minutes))) do
      if bytes then
        store.total = store.total - tonumber(bytes)
        store.gone[#store.gone + 1] = minutes[i]
      end
    end
    store.swept = minute
  end
  stores[tenant] = store
  return store
end

local function write_stores()
  for tenant, store in pairs(stores) do
    local name = 'stored:' .. tenant
    if #store.gone > 0 then redis.call('HDEL', name, unpack(store.gone)) end
    for minute, bytes in pairs(store.added) do redis.call('HINCRBY', name, minute, bytes) end
    if #store.gone > 0 or next(store.added) then
      redis.call('HSET', name, 'total', store.total, 'swept', store.swept)
      redis.call('EXPIRE', name, KEY_LASTS)
    end
  end
end

-- Closing

local function drop_claim(key, call)
  if key ~= '' and claim_of(key)[1] == call then
    claims[key] = {false, false, false}
    later[#later + 1] = {'DEL', key}
  end
end

local function keep_outcome(head, call, stored, keep, least)
  local key = head[6]
  if key == '' or claim_of(key)[1] ~= call then return end
  claims[key] = {call, claim_of(key)[2], stored}
  local store, bytes = store_of(head[1]), #stored + CLAIM_BYTES
  if LONG_PART * store.total > tonumber(ARGV[1]) then keep = math.min(keep, least) end
  local minute = math.floor((now() + keep) / 60)
  later[#later + 1] = {'HSET', key, 'stored', stored}
  later[#later + 1] = {'EXPIRE', key, keep}
  store.total, store.added[minute] = store.total + bytes, (store.added[minute] or 0) + bytes
end

local is_closed = {}
local less_than_most = {}  -- head → nano that its calls cost less than their maximum

local function close(call, entry, nano, ended, claim, stored, keep, least)
  if not entry or is_closed[call] then
    if claim ~= '' then
      local outcome = claim_of(claim)
      if outcome[1] == call and outcome[3] then return 'd' end
    end
    return 'g'
  end
  local head, first = head_of(entry)
  if ended ~= '' then
    local exact = tonumber(nano)
    if not exact or exact < 0 or exact > head[4] or exact % 1 ~= 0 then error('the amount is not within the maximum') end
    keep_outcome(head, call, stored, tonumber(keep), tonumber(least))
    if exact ~= head[4] and head[5] ~= 'test' then less_than_most[head] = (less_than_most[head] or 0) + head[4] - exact end
    records[#records + 1] = 'r'
    records[#records + 1] = string.sub(entry, first) .. ended
  else
    drop_claim(head[6], call)
    charge_back(head)
  end
  return 'c'
end

local function undo_bad(call, entry, ended, reason)
  refused[#refused + 1] = {call, tostring(reason), entry .. ended}
  local is_readable, head = pcall(head_of, entry)
  if is_readable then
    pcall(drop_claim, head[6], call)
    charge_back(head)
  end
  return 'b'
end

local function close_checked(call, entry, nano, ended, claim, stored, keep, least)
  local is_good, verdict = pcall(close, call, entry, nano, ended, claim, stored, keep, least)
  if not is_good then verdict = undo_bad(call, entry, ended, verdict) end
  verdicts[#verdicts + 1] = verdict
  if entry and not is_closed[call] then
    is_closed[call] = true
    removed[#removed + 1] = call
  end
end

local n = tonumber(ARGV[2])
local found = read_entries(argument, 3, n)
for i = 1, n do
  close_checked(ARGV[argument], found[i], ARGV[argument + 1], ARGV[argument + 2], '', '', '0', '0')
  argument = argument + 3
end
n = tonumber(ARGV[3])
found = read_entries(argument, 7, n)
for i = 1, n do
  close_checked(ARGV[argument], found[i], unpack(ARGV, argument + 1, argument + 6))
  argument = argument + 7
end
for head, nano in pairs(less_than_most) do charge(head[1], head[2], head[3], 0, -nano) end

-- Opening

local full
local function what_is_full()
  if full == nil then full = redis.call('GET', KEYS[3]) or '' end
  return full
end

local function integer(text)
  local value = tonumber(text or '0')
  if not value or value % 1 ~= 0 then error('a sum or limit is not an integer') end
  return value
end

-- The limits in the order in which they are looked at, and which of them count calls (the others nano).
local LETTERS = {'Q', 'P', 'B', 'C', 'q', 'b', 'c'}
local COUNTS_CALLS = {true, true, false, false, true, false, false}
local IS_CREDIT = {[4] = true, [7] = true}

local known = {}  -- sums and limits as they were when the script began
local function read_account(tenant, key, period)
  local name = tenant .. key .. period
  if not known[name] then
    local month, ever = period .. ':', 'ever:'
    known[name] = redis.call('HMGET', account_key(tenant), 'limits_version',
      'limit:calls:month:', 'calls:' .. month, 'limit:included:month:', 'calls:' .. month,
      'limit:nano:month:', 'nano:' .. month, 'limit:nano:ever:', 'nano:' .. ever,
      'limit:calls:month:' .. key, 'calls:' .. month .. key, 'limit:nano:month:' .. key, 'nano:' .. month .. key,
      'limit:nano:ever:' .. key, 'nano:' .. ever .. key)
    known[name].fields = {'calls:' .. month, 'calls:' .. month, 'nano:' .. month, 'nano:' .. ever,
      'calls:' .. month .. key, 'nano:' .. month .. key, 'nano:' .. ever .. key}
  end
  return known[name]
end

local function less(a, b) return a and math.min(a, b) or b end
local function text_of(left) return left and string.format('%.0f', math.max(0, left)) or '-' end

-- How many of n calls fit below every limit; the letter and the note of the limit that stops the next one; and the note of those
-- that fit, nil if no limit is on money or on included calls.
local function room(tenant, key, period, n, maximum)
  local account = read_account(tenant, key, period)
  if not account[1] or not is_kept(period) then return 0, 'u' end
  local raised, letter, stop, budget, credit, included = charges[account_key(tenant)] or {}, '', nil, nil, nil, nil
  for i = 1, (key == '' and 4 or 7) do
    local limit = account[2 * i]
    local sum = integer(account[2 * i + 1]) + (raised[account.fields[i]] or 0)
    if limit then
      local unit = COUNTS_CALLS[i] and 1 or maximum
      local left = integer(limit) - sum
      local fits = unit > 0 and math.max(0, math.floor(left / unit)) or n
      if fits < n then n, letter, stop = fits, LETTERS[i], {limit, left, unit} end
      if LETTERS[i] == 'P' then included = left end
      if IS_CREDIT[i] then credit = less(credit, left) elseif not COUNTS_CALLS[i] then budget = less(budget, left) end
    end
  end
  local refused = stop and stop[1] .. ' ' .. text_of(stop[2] - n * stop[3])
  if not (budget or credit or included) then return n, letter, refused end
  local taken = n * maximum
  local left = text_of(budget and budget - taken) .. ' ' .. text_of(credit and credit - taken)
  return n, letter, refused, left .. ' ' .. text_of(included and included - n)
end

-- The verdict of a claim: nil if it is free, o if it is this very call's.
local function meet_claim(key, call, fingerprint)
  local owner, print, stored = unpack(claim_of(key), 1, 3)
  if not owner then return nil end
  if owner == call then return 'o' end
  if print ~= fingerprint then return 'r' end
  if not stored then return 'i' end
  notes[#notes + 1] = stored
  return 'p'
end

-- How many of the group's new calls, which all look alike, open; the letter and note of the others; the note of those that open.
local function open_group(tenant, key, period, maximum, mode, claim, fingerprint, new)
  if claim ~= '' then
    local met = meet_claim(claim, new[1], fingerprint)
    if met then return 0, met end
  end
  if what_is_full() == 'all' or (claim ~= '' and what_is_full() == 'claims') then return 0, 'f' end
  if claim ~= '' and store_of(tenant).total >= tonumber(ARGV[1]) then return 0, 's' end
  local fits, letter, refused, left = #new, '', nil, nil
  if mode ~= 'test' then
    fits, letter, refused, left = room(tenant, key, period, #new, maximum)
    if fits > 0 then charge(tenant, key, period, fits, fits * maximum) end
  end
  if claim ~= '' and fits > 0 then
    claims[claim] = {new[1], fingerprint, false}
    later[#later + 1] = {'HSET', claim, 'call', new[1], 'print', fingerprint}
  end
  return fits, letter, refused, left
end

for _ = 1, tonumber(ARGV[4]) do
  local n, tenant, maximum = tonumber(ARGV[argument]), ARGV[argument + 1], tonumber(ARGV[argument + 4])
  local first = argument + 8
  local there, new = read_entries(first, 2, n), {}
  for i = 1, n do
    if not there[i] then new[#new + 1] = ARGV[first + 2 * (i - 1)] end
  end
  local fits, letter, refused, left = 0, 'o', nil, nil
  if #new > 0 then
    local is_good
    is_good, fits, letter, refused, left = pcall(open_group, tenant, ARGV[argument + 2], ARGV[argument + 3], maximum, ARGV[argument + 5],
      ARGV[argument + 6], ARGV[argument + 7], new)
    if not is_good then fits, letter, refused = 0, 'u', nil end
    if letter == 'u' and is_kept(ARGV[argument + 3]) then wanted[#wanted + 1] = tenant end
  end
  local opened = 0
  for i = 1, n do
    if there[i] then
      verdicts[#verdicts + 1] = 'o'
    elseif opened < fits then
      opened = opened + 1
      entries[#entries + 1] = ARGV[first + 2 * (i - 1)]
      entries[#entries + 1] = ARGV[first + 2 * i - 1]
      verdicts[#verdicts + 1] = left and 'l' or 'o'
      notes[#notes + 1] = left
    else
      verdicts[#verdicts + 1] = letter
      notes[#notes + 1] = refused
    end
  end
  argument = first + 2 * n
end

-- Writing. The streams first: were one of them refused, nothing else would be written, and all of it sent again.

for _, bad in ipairs(refused) do quarantine(unpack(bad)) end
if #records > 0 then redis.call('XADD', journal, next_id(journal), unpack(records)) end
if #removed > 0 then redis.call('HDEL', session, unpack(removed)) end
if #entries > 0 then redis.call('HSET', session, unpack(entries)) end
write_charges()
for _, command in ipairs(later) do redis.call(unpack(command)) end
write_stores()
if #wanted > 0 then redis.call('SADD', 'accounts:wanted', unpack(wanted)) end
return {table.concat(verdicts), unpack(notes)}
