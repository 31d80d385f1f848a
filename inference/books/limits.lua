-- Sets the limits of an account; an older version never overwrites. While the account is unknown they wait beside it.
-- KEYS: 1 account:{tenant}, 2 limits:{tenant}.
-- ARGV: 1 `set`, `create` for the empty account of a new organization, or `lower`; 2 version, then the limits: field, value …
--   After the version of `lower`: nano settled, nano of the credit that ends.
-- Returns 1 if the account exists and has these limits or newer ones, 0 if they wait for it. `lower` raises the limit on credit by
-- what is charged beyond `settled`, at most by what ends, and returns all that is charged; false, and nothing is set, without an
-- account.

local DAY = 86400

local function put(key, version, fields)
  if tonumber(version) < tonumber(redis.call('HGET', key, 'limits_version') or '-1') then return end
  local is_new = {}
  for i = 1, #fields, 1000 do  -- Lua's stack holds some 8,000 values: an organization may have more limits
    redis.call('HSET', key, unpack(fields, i, math.min(i + 999, #fields)))
  end
  for i = 1, #fields, 2 do is_new[fields[i]] = true end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 6) == 'limit:' and not is_new[field] then redis.call('HDEL', key, field) end
  end
  redis.call('HSET', key, 'limits_version', version)
end

local fields, first = {}, ARGV[1] == 'lower' and 5 or 3
for i = first, #ARGV do fields[i - first + 1] = ARGV[i] end

local is_there = redis.call('EXISTS', KEYS[1]) == 1
if ARGV[1] == 'lower' then
  if not is_there then return false end
  local charged = redis.call('HGET', KEYS[1], 'nano:ever:') or '0'
  local pending = math.max(0, math.min(tonumber(charged) - tonumber(ARGV[3]), tonumber(ARGV[4])))
  for i = 1, #fields, 2 do
    if fields[i] == 'limit:nano:ever:' then fields[i + 1] = string.format('%.0f', tonumber(fields[i + 1]) + pending) end
  end
  put(KEYS[1], ARGV[2], fields)
  return charged
end
if ARGV[1] == 'create' and not is_there then
  if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('RENAME', KEYS[2], KEYS[1])
    redis.call('PERSIST', KEYS[1])
  else
    redis.call('HSET', KEYS[1], 'limits_version', 0)
  end
  redis.call('SREM', 'accounts:wanted', string.sub(KEYS[1], 9))
  is_there = true
end
if is_there then
  put(KEYS[1], ARGV[2], fields)
  return 1
end
put(KEYS[2], ARGV[2], fields)
redis.call('EXPIRE', KEYS[2], DAY)
return 0
