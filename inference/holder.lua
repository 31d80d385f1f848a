-- Shared by the scripts that admit calls: what a holder of limits (a key, an organization) has left of them.
--
-- A holder is one value, packed: {tokens, when that was, when it may be forgotten, gateway, count, till, gateway, count, till, …}.
-- `tokens` is false as long as none was taken: its bucket is full. Each gateway counts the places that its own calls hold; the
-- count ends at `till`, the latest deadline among them, so that places of a gateway that died come free. Times are epoch seconds.
local TOKENS, AT, ENDS, FIRST = 1, 2, 3, 4
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local holders = {}

local function holder_of(name)
  local holder = holders[name]
  if not holder then
    local known = redis.call('GET', name)
    holder = known and cmsgpack.unpack(known) or {false, now, now}
    holders[name] = holder
  end
  return holder
end

local function tokens_of(holder, rate, burst)
  if not holder[TOKENS] then return burst end
  return math.min(burst, holder[TOKENS] + math.max(0, now - holder[AT]) * rate)
end

local function set_tokens(holder, tokens, rate, burst)
  holder[TOKENS], holder[AT], holder[ENDS] = tokens, now, math.max(holder[ENDS], now + (burst - tokens) / rate)
end

local function drop(holder, place)
  for _ = 1, 3 do table.remove(holder, place) end
end

local function taken(holder)
  local sum = 0
  for place = #holder - 2, FIRST, -3 do
    if holder[place + 2] <= now then drop(holder, place) else sum = sum + holder[place + 1] end
  end
  return sum
end

local function take(holder, gateway, count, till)
  holder[ENDS] = math.max(holder[ENDS], till)
  for place = FIRST, #holder, 3 do
    if holder[place] == gateway then
      holder[place + 1], holder[place + 2] = holder[place + 1] + count, math.max(holder[place + 2], till)
      return
    end
  end
  local place = #holder
  holder[place + 1], holder[place + 2], holder[place + 3] = gateway, count, till
end

local function free(holder, gateway, count)
  for place = FIRST, #holder, 3 do
    if holder[place] == gateway then
      holder[place + 1] = holder[place + 1] - count
      if holder[place + 1] <= 0 then drop(holder, place) end
      return
    end
  end
end

-- Write back every holder that was asked for. A full bucket without places is what an unknown holder has, so it may end.
local function save()
  for name, holder in pairs(holders) do
    if holder[ENDS] > now then
      redis.call('SET', name, cmsgpack.pack(holder), 'PXAT', string.format('%.0f', math.ceil(holder[ENDS] * 1000)))
    end
  end
end

